"""The example's models on the runtime's engines, without a server."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from e2e.clusters.paths import REPOSITORY
from numpy.typing import NDArray

from podium.engines.base import EngineBatch
from podium.engines.python_engine import PythonEngine
from podium.engines.torch_engine import TorchEngine
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext
from podium_crds.assignment import EngineKind, EngineSpec
from podium_crds.tensors import DType, TensorSpec

EXAMPLE = REPOSITORY / "examples" / "minilm"
EMBEDDING = (TensorSpec(name="embedding", dtype=DType.FP32, shape=(-1, 384)),)

Arrays = Mapping[str, NDArray[Any]]


def prepare() -> ModuleType:
    """examples/minilm/prepare.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("minilm_prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(artifact: Path, tokens: Arrays) -> NDArray[np.float32]:
    """What the encoder of that artifact answers, on the Torch engine."""
    spec = EngineSpec(kind=EngineKind.TORCH, entrypoint="encoder:build")
    engine = TorchEngine(spec, ModelContext(artifact_dir=artifact), EMBEDDING)
    return run(engine, artifact, tokens)["embedding"]


def tokenize(artifact: Path, sentences: Sequence[str]) -> Arrays:
    """What the tokenizer answers, on the Python engine."""
    engine = PythonEngine("tokenizer:Tokenizer", ModelContext(artifact_dir=artifact))
    text = np.array([sentence.encode() for sentence in sentences], dtype=object)
    return run(engine, artifact, {"text": text})


def normalise(artifact: Path, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the normalisation answers, on the Python engine."""
    engine = PythonEngine("normalise:Normalise", ModelContext(artifact_dir=artifact))
    return run(engine, artifact, {"embedding": embedding})["embedding"]


def run(engine: TorchEngine | PythonEngine, artifact: Path, inputs: Arrays) -> Arrays:
    """Load, one batch, unload; this process forgets the artifact's modules, as a worker does by ending."""
    known, path = set(sys.modules), list(sys.path)
    try:
        engine.load()
        tensors = {name: Tensor.from_array(array) for name, array in inputs.items()}
        return engine.infer(EngineBatch(tensors, (len(next(iter(inputs.values()))),)))
    finally:
        engine.unload()
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if getattr(sys.modules[name], "__file__", None) and artifact in Path(sys.modules[name].__file__).parents:
                del sys.modules[name]
