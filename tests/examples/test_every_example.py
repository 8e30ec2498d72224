"""Every YAML file of the examples is one that `podium validate` and `podium serve -f` take as it is."""

from pathlib import Path

import pytest

from podium.cli.local_files import compile_texts, read_texts

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_holds_resources_without_a_mistake(file: Path) -> None:
    assert compile_texts(read_texts([file])).resources


def test_each_folder_has_one() -> None:
    folders = {path for path in EXAMPLES.iterdir() if path.is_dir()}
    assert {folder for folder in folders if not list(folder.glob("*.yaml*"))} == set()
