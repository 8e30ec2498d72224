"""What the pages name exists, and what a reader would look up is on its page."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"docs/{page.name}" not in readme] == []


def test_every_folder_of_the_packages_is_on_the_tour() -> None:
    tour = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.parent.name for root in ("operator", "runtime") for path in ROOT.glob(f"{root}/*/*/__init__.py")}
    assert {name for name in packages if not re.search(rf"[/`{{,]{name}[`}},/]", tour)} == set()


def test_every_make_target_is_in_the_guide_and_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    guide = set(re.findall(r"`make ([a-z0-9-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert targets == explained
    assert targets - {"help"} == guide - {"help"}


def test_the_help_of_make_bench_names_every_benchmark() -> None:
    named = re.search(r"^bench:.* NAME=([a-z|]+) ", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split("|")
    assert named == sorted(
        re.findall(r'^    "([a-z]+)": ', (ROOT / "benchmarks" / "__main__.py").read_text(), re.MULTILINE)
    )


def test_decisions_have_a_number_each_and_say_it() -> None:
    numbers = [int(page.name[:4]) for page in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")


def test_every_value_of_the_chart_is_on_its_page() -> None:
    page = (ROOT / "docs" / "helm.md").read_text()
    named = {name for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in _names(cell)}
    values = yaml.safe_load((ROOT / "charts" / "podium" / "values.yaml").read_text())
    assert {path for path in _leaves(values) if not any(f"{path}.".startswith(f"{name}.") for name in named)} == set()


def _names(cell: str) -> Iterator[str]:
    for quoted in re.findall(r"`([^`]+)`", cell):
        head, _, choices = quoted.partition("{")
        yield from (head + choice for choice in choices.rstrip("}").split(",")) if choices else [quoted]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key
