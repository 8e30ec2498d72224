"""The pipelines of examples/pipelines: their Python is their YAML, and what is served answers what is written there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from e2e.clusters.paths import REPOSITORY
from tests.examples.written import EXAMPLE, NAMES, assert_as_written, exchanges
from tests.runtime.serving.processes import podium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, with what its prepare.py writes."""
    target = tmp_path_factory.mktemp("pipelines") / "pipelines"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("artifact", "__pycache__"))
    subprocess.run([sys.executable, target / "prepare.py"], check=True, timeout=60)
    return target


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """All of them, served by one process."""
    files = [argument for name in NAMES for argument in ("-f", str(folder / f"{name}.yaml"))]
    with podium("serve", *files, "--port", "0", PODIUM_STATE_DIR=str(folder / "state")) as process:
        address = process.says("listening on").split()[2]
        for name in NAMES:
            process.says(f"{name}: now serving revision")
        yield address


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_is_what_the_function_is_traced_to(folder: Path, name: str) -> None:
    argv = [sys.executable, "-c", "from podium.cli.main import app; app()", "trace", f"flows:{name}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert yaml.safe_load(done.stdout) == yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text()), done.stderr


WRITTEN = [pytest.param(name, each, id=f"{name}-{each['what']}") for name in NAMES for each in exchanges(name)]


@pytest.mark.parametrize(("name", "exchange"), WRITTEN)
def test_the_answer_is_the_one_written_down(url: str, name: str, exchange: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/v1/pipelines/{name}:run", json={"inputs": exchange["inputs"]}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert_as_written(answer.json(), exchange)


def test_the_graph_of_minilm_is_what_its_function_is_traced_to() -> None:
    argv = [sys.executable, "-c", "from podium.cli.main import app; app()", "trace", "flow:embed"]
    folder = REPOSITORY / "examples" / "minilm"
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    traced = yaml.safe_load(done.stdout)
    written = list(yaml.safe_load_all((folder / "minilm.yaml.in").read_text()))[1]
    assert traced["metadata"] == written["metadata"]
    for part in ("steps", "outputs"):
        assert traced["spec"][part] == written["spec"][part]
    assert [member["name"] for member in traced["spec"]["models"]] == [m["name"] for m in written["spec"]["models"]]
