"""docs/operator.md names what exists."""

import re
from pathlib import Path

from podium_operator.metrics import Metrics
from podium_operator.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()


def words() -> set[str]:
    return set(re.findall(r"`([A-Za-z_]+)`", PAGE))


def test_every_setting_is_documented() -> None:
    assert {name.upper() for name in Settings.model_fields} - words() == set()


def test_every_metric_is_documented() -> None:
    families = [family for family in Metrics().registry.collect() if family.name.startswith("podium_operator_")]
    names = {
        family.name.removeprefix("podium_operator_") + ("_total" if family.type == "counter" else "")
        for family in families
    }
    assert names - words() == set()
