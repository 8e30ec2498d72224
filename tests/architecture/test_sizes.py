"""A module that has outgrown its responsibility is split."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
MODULES = sorted(
    path
    for folder in ("crds", "operator", "runtime", "demo", "benchmarks", "e2e")
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.endswith("_pb2.py")
)


@pytest.mark.parametrize("package", ["crds", "operator", "runtime", "demo", "benchmarks", "e2e"])
def test_no_module_is_longer_than_it_may_be(package: str) -> None:
    lengths = {path: path.read_text().count("\n") for path in MODULES if path.is_relative_to(ROOT / package)}
    assert lengths
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
