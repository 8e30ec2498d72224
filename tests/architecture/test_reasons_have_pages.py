"""Every reason has a page that says what to do, and no page is about a reason that is gone."""

from pathlib import Path

import pytest

from podium_crds.reasons import Reason

PAGES = Path(__file__).parents[2] / "docs" / "reasons"
PARTS = ("**Where.** ", "**What it means.** ", "**What Podium does.** ", "**What to do.**")


def test_pages_and_reasons_are_the_same_set() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_the_page_has_every_part(reason: Reason) -> None:
    text = (PAGES / f"{reason.value}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {reason.value}\n")
    assert [part for part in PARTS if part not in text] == []
    assert "\n- " in text.partition("**What to do.**")[2]


def test_the_index_links_every_page() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert [reason.value for reason in Reason if f"]({reason.value}.md)" not in index] == []
