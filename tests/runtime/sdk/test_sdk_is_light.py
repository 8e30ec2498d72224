"""What a model's author imports costs nothing and says what is missing."""

import subprocess
import sys

import pytest

from podium import Model

CHECK = """
import sys
from podium import Model, ModelContext, TraceError, cond, model, parallel, trace
class Mine(Model):
    def infer(self, inputs):
        return inputs
heavy = {"torch", "zmq", "numpy", "msgspec", "pydantic", "fastapi", "asyncio"} & set(sys.modules)
assert not heavy, heavy
assert ModelContext(artifact_dir=None).device == "cpu"
"""


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CHECK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    import podium

    with pytest.raises(AttributeError, match="Modle"):
        podium.Modle  # noqa: B018


def test_a_model_without_infer_says_so() -> None:
    class Unfinished(Model):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished"):
        Unfinished().infer({})
