"""One example of each engine, served by the real `podium serve` and asked over HTTP."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.clusters.paths import REPOSITORY
from tests.runtime.serving.processes import podium

EXAMPLES = REPOSITORY / "examples"


def prepared(name: str, folder: Path) -> Path:
    """The example's YAML in `folder`, with what its prepare.py writes."""
    target = folder / name
    shutil.copytree(EXAMPLES / name, target, ignore=shutil.ignore_patterns("artifact", "__pycache__"))
    script = target / "prepare.py"
    if script.exists():
        spec = importlib.util.spec_from_file_location(f"prepare_{name}", script)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.main(target).stat().st_size < 200_000
    return target / f"{name}.yaml"


def served(name: str, folder: Path, model: str, requests: list[dict[str, Any]]) -> list[httpx.Response]:
    """Answers of the served example to each request, one after the other."""
    file = prepared(name, folder)
    with podium("serve", "-f", str(file), "--port", "0", PODIUM_STATE_DIR=str(folder / "state")) as process:
        url = process.says("listening on").split()[2]
        process.says("now serving revision")
        return [httpx.post(f"{url}/v1/models/{model}:predict", json={"inputs": each}, timeout=30) for each in requests]


def test_onnx(tmp_path: Path) -> None:
    first, wrong = served(
        "onnx",
        tmp_path,
        "flowers",
        [{"measures": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}, {"measures": [[1.0]]}],
    )
    setosa, virginica = first.json()["outputs"]["probabilities"]["data"]
    assert (setosa.index(max(setosa)), virginica.index(max(virginica))) == (0, 2)
    assert sum(setosa) == pytest.approx(1)
    assert wrong.status_code == 422


def test_handler(tmp_path: Path) -> None:
    mixed, empty = served(
        "handler", tmp_path, "mood", [{"text": ["what a good day", "bad, bad luck", "rain"]}, {"text": ["good", " "]}]
    )
    assert mixed.json()["outputs"]["mood"]["data"] == ["good", "bad", "neither"]
    assert mixed.json()["outputs"]["score"]["data"][0] == pytest.approx(0.25)
    assert (empty.status_code, "item 1: text is empty" in empty.text) == (422, True)


def test_codecs(tmp_path: Path) -> None:
    file = prepared("codecs", tmp_path)
    with podium("serve", "-f", str(file), "--port", "0", PODIUM_STATE_DIR=str(tmp_path / "state")) as process:
        url = process.says("listening on").split()[2] + "/v1/models/sums:predict"
        process.says("now serving revision")

        def ask(body: bytes, content_type: str, accept: str = "*/*") -> httpx.Response:
            return httpx.post(url, content=body, headers={"content-type": content_type, "accept": accept}, timeout=30)

        assert ask(b"1,2,3\n4,5.5,6\n", "text/csv", "text/csv").text == "6\n15.5\n"
        graymap = ask(b"P5 2 2 255 \x01\x02\x03\x04", "image/x-portable-graymap")
        uneven = ask(b"1,2\n3\n", "text/csv; header=absent")
    assert graymap.json()["outputs"]["sum"]["data"] == [3, 7]
    assert (uneven.status_code, "the 2 lines differ in their number of fields" in uneven.text) == (400, True)


@pytest.mark.torch
def test_exported(tmp_path: Path) -> None:
    (answer,) = served("exported", tmp_path, "rotate", [{"points": [[1, 0], [0, 2], [3, 4]]}])
    assert answer.json()["outputs"]["turned"]["data"] == [[0, 1], [-2, 0], [-4, 3]]
