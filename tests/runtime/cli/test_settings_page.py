"""The page about settings names every one of them."""

from pathlib import Path

from podium.settings import PREFIX, Settings

PAGE = Path(__file__).parents[3] / "docs" / "http.md"


def test_every_setting_is_on_its_page_with_its_default_and_meaning() -> None:
    text = PAGE.read_text()
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if field.default not in (None, "") else ""
        assert f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |" in text
