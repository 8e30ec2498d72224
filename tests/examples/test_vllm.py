"""The example of engine VLLM: a resource that parses, with arguments that are not refused."""

import pytest
from e2e.clusters.paths import REPOSITORY

from podium.engines.vllm.arguments import refusal
from podium_crds.assignment import EngineKind
from podium_crds.model import InferenceModel
from podium_crds.parse import load_resources
from podium_crds.vllm import VllmEngine

EXAMPLE = REPOSITORY / "examples" / "vllm" / "vllm.yaml"


@pytest.fixture
def model() -> InferenceModel:
    (found,) = load_resources(EXAMPLE.read_text())
    assert isinstance(found, InferenceModel)
    return found


def test_its_engine_takes_every_argument(model: InferenceModel) -> None:
    options = model.spec.options
    assert model.spec.engine is EngineKind.VLLM
    assert isinstance(options, VllmEngine)
    assert options.engine_args
    assert [name for name in options.engine_args if refusal(name)] == []


def test_its_cache_fits_into_its_memory(model: InferenceModel) -> None:
    assert isinstance(model.spec.options, VllmEngine)
    assert int(model.spec.options.engine_args["kv_cache_memory_bytes"]) < 4 << 30
