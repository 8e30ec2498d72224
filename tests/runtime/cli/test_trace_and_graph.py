"""`podium trace` and `podium graph`, as people run them."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from podium_crds.parse import load_resources

CODE = """
from podium import Model, cond, model, trace

class Small(Model):
    pass

X = [{"name": "x", "dtype": "FP32", "shape": [-1]}]
small = model("small", Small, source="s3://models/small", inputs=X,
              outputs=[*X, {"name": "sure", "dtype": "BOOL", "shape": [-1]}])
big = model("big", ref="big", outputs=X)

def cascade(request):
    first = small(x=request["x"])
    return {"x": cond(first["sure"], lambda: first["x"], lambda: big(x=request["x"], end="<now>"))}

def wrong(request):
    if request["x"]:
        return request

narrow = model("narrow", Small, inputs=[{"name": "x", "dtype": "INT64", "shape": [-1]}])

def clash(request):
    return narrow(x=small(x=request["x"])["x"])["y"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(CODE)
    return tmp_path


def podium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", "from podium.cli.main import app; app()", *arguments]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_yaml_of_a_function_is_a_resource(folder: Path) -> None:
    done = podium(folder, "trace", "flow:cascade", "--name", "judged")
    assert done.returncode == 0, done.stderr
    (pipeline,) = load_resources(done.stdout)
    assert pipeline.metadata.name == "judged"
    assert yaml.safe_load(done.stdout)["spec"]["steps"][1] == {
        "name": "big",
        "model": "big",
        "inputs": [{"name": "x", "from": "request.x"}, {"name": "end", "value": "<now>"}],
        "when": {"from": "small.sure", "equals": False},
    }
    assert yaml.safe_load(done.stdout)["spec"]["outputs"] == [{"name": "x", "fromFirst": ["big.x", "small.x"]}]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("flow:wrong", "flow.py:17: request.x is not known before a request is there"),
        ("flow:clash", "spec.steps[narrow].inputs[x]: small.x cannot feed it: dtype FP32 does not match INT64"),
        ("flow:absent", "module flow has no function absent"),
        ("nowhere:f", "cannot import nowhere"),
        ("flow", "write module:function"),
    ],
)
def test_what_cannot_be_traced_is_told_with_its_place(folder: Path, target: str, message: str) -> None:
    done = podium(folder, "trace", target)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


@pytest.fixture
def file(folder: Path) -> str:
    model = "apiVersion: podium.dev/v1alpha1\nkind: InferenceModel\nmetadata: {name: big}\n"
    model += "spec: {source: {uri: 's3://m/b'}, engine: Python, python: {entrypoint: 'a:B'}}\n---\n"
    (folder / "p.yaml").write_text(model + podium(folder, "trace", "flow:cascade").stdout)
    return "p.yaml"


def test_a_graph_as_text(folder: Path, file: str) -> None:
    done = podium(folder, "graph", "-f", file)
    assert done.stdout == (
        "cascade(x)\n  small: small\n    x ← request.x\n  big: big\n    only if small.sure = false\n    x ← request.x\n"
        "    end ← constant '<now>'\n  answer\n    x ← big.x or else small.x\n"
    ), done.stderr


def test_a_graph_as_mermaid(folder: Path, file: str) -> None:
    lines = podium(folder, "graph", "-f", file, "-o", "mermaid").stdout.splitlines()
    assert lines[1] == "flowchart TD"
    assert '  s0 -. "sure" .-> s1' in lines
    assert '  s1 -- "x" --> answer' in lines


def test_a_graph_as_svg_needs_nothing_else(folder: Path, file: str) -> None:
    done = podium(folder, "graph", "-f", file, "-o", "svg")
    root = ElementTree.fromstring(done.stdout)
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"request", "small", "big", "answer", "sure"} <= set(texts)
    assert len(list(root.iter(f"{space}rect"))) == 4
    assert "http" not in done.stdout.replace("http://www.w3.org/2000/svg", "")


def test_a_drawing_that_cannot_be_says_what_to_write(folder: Path, file: str) -> None:
    assert "write one of text, mermaid, svg" in podium(folder, "graph", "-f", file, "-o", "png").stderr
    assert "write --name and one of: cascade" in podium(folder, "graph", "-f", file, "--name", "other").stderr
