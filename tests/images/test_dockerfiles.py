"""What every image of the project promises, read from its Dockerfile."""

import re
from pathlib import Path

import pytest
from e2e.clusters.paths import REPOSITORY

IMAGES = REPOSITORY / "images"
NAMES = ("operator", "runtime", "store")
VARIANTS = {"REQUIREMENTS": ("runtime", "runtime-torch", "vllm")}
"""Build arguments that name files, and what they may be."""


def instructions(name: str) -> list[str]:
    """Instructions with continued lines joined, comments left out."""
    text = (IMAGES / name / "Dockerfile").read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line for line in re.sub(r"\\\n\s*", "", kept).splitlines() if line.strip()]


def copied(name: str) -> list[str]:
    """Sources of COPY that come from the repository, for each variant."""
    found = []
    for line in instructions(name):
        words = line.split()
        if words[0] != "COPY" or words[1].startswith("--from="):
            continue
        for source in words[1:-1]:
            expanded = [source]
            for argument, values in VARIANTS.items():
                expanded = [each.replace(f"${{{argument}}}", value) for each in expanded for value in values]
            found += expanded
    return found


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_copied_is_in_the_repository_and_in_the_context(name: str) -> None:
    kept = [
        line.removeprefix("!") for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for source in copied(name):
        assert (REPOSITORY / source).exists(), source
        assert source.split("/")[0] in kept, source


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_installed_that_is_not_pinned_by_its_hash(name: str) -> None:
    installs = [command for line in instructions(name) for command in line.split("&&") if "pip install" in command]
    assert installs
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_python_on_an_empty_root_run_by_nobody(name: str) -> None:
    lines = instructions(name)
    last = max(index for index, line in enumerate(lines) if line.startswith("FROM "))
    assert lines[last] == "FROM scratch"
    assert "USER 65532:65532" in lines[last:]
    assert "COPY --from=root /rootfs/ /" in lines[last:]


@pytest.mark.parametrize("name", NAMES)
def test_the_base_can_be_chosen(name: str) -> None:
    first, second = (line for line in instructions(name)[:2])
    assert first == "ARG BASE=debian:bookworm-slim"
    assert second == "FROM ${BASE} AS python"


def test_the_operator_comes_without_torch() -> None:
    assert "torch" not in pinned(REPOSITORY / "requirements" / "operator.txt")


@pytest.mark.parametrize("path", ["images/store/requirements.txt", "requirements/operator.txt"])
def test_what_images_pin_is_what_the_tests_run_with(path: str) -> None:
    tested = pinned(REPOSITORY / "requirements" / "dev.txt")
    used = pinned(REPOSITORY / path)
    assert {name: version for name, version in used.items() if tested.get(name, version) != version} == {}


def pinned(path: Path) -> dict[str, str]:
    """Name → version of every requirement of a lock file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE))
