"""Torch modules from a builder in the artifact: inputs by name, weights mapped, contract kept."""

import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from podium.engines.base import EngineBatch, LoadError, context_of
from podium.engines.torch_engine import TorchEngine, borrowed
from podium.engines.torch_weights import mapped_tensors
from podium.errors import ModelError
from podium.ipc.tensor import Tensor
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.torch

NAMES = itertools.count()
LINEAR = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)
        def forward(self, x):
            return {"y": self.layer(x)}
    def build(ctx):
        with torch.device("meta"):
            return Net()
"""
HEADERS = [
    len(header).to_bytes(8, "little") + header + bytes(8)
    for header in (
        b"{",
        b"[]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32"}}',
        b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
        b'{"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}}',
    )
]
ONE_OUTPUT = (TensorSpec(name="y", dtype=DType.FP32, shape=(-1, 3)),)


def an_engine(folder: Path, source: str, outputs: tuple[TensorSpec, ...] = (), **engine: Any) -> TorchEngine:
    """An engine over `source`, in a module of a name that no other test has."""
    module = f"torch_model_{next(NAMES)}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    spec = EngineSpec(kind=EngineKind.TORCH, entrypoint=f"{module}:build", **engine)
    member = Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=spec, outputs=outputs)
    return TorchEngine(spec, context_of(member, folder, "cpu"), outputs)


def a_batch(**arrays: Any) -> EngineBatch:
    return EngineBatch({name: Tensor.from_array(np.asarray(array)) for name, array in arrays.items()}, (1,))


def save(folder: Path, **tensors: torch.Tensor) -> None:
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_an_empty_module_gets_its_weights_from_the_mapped_file(tmp_path: Path) -> None:
    save(tmp_path, layer__weight=torch.eye(3) * 2, layer__bias=torch.ones(3))
    engine = an_engine(tmp_path, LINEAR)
    engine.load()
    answer = engine.infer(a_batch(x=np.array([[1, 2, 3]], np.float32)))
    np.testing.assert_array_equal(answer["y"], [[3, 5, 7]])


def test_a_mapped_file_says_the_same_as_the_reference_reader(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {
        "a": torch.randn(5, 7),
        "b": torch.arange(11, dtype=torch.int64),
        "c": torch.randn(3).to(torch.bfloat16),
        "d": torch.tensor([True, False, True]),
        "e": torch.randn(2, 3, dtype=torch.float64),
        "f": torch.tensor(4.0),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected, mapped = load_file(tmp_path / "model.safetensors"), mapped_tensors(tmp_path / "model.safetensors")
    assert expected.keys() == mapped.keys()
    for name, tensor in expected.items():
        assert torch.equal(mapped[name], tensor)
        assert mapped[name].dtype is tensor.dtype


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 16, (1000).to_bytes(8, "little") + b"{}", *HEADERS])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadError):
        mapped_tensors(tmp_path / "model.safetensors")


def test_weights_that_do_not_fit_the_module_are_named(tmp_path: Path) -> None:
    save(tmp_path, layer__weight=torch.eye(3), other=torch.ones(3))
    with pytest.raises(LoadError, match=r"layer\.bias.*other"):
        an_engine(tmp_path, LINEAR).load()


def test_an_empty_module_without_a_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no model\.safetensors"):
        an_engine(tmp_path, LINEAR).load()


def test_a_builder_that_loads_itself_is_left_alone(tmp_path: Path) -> None:
    source = "import torch\ndef build(ctx):\n    return lambda x: {'y': x * ctx.parameters['by']}\n"
    engine = an_engine(tmp_path, source, parameters={"by": 3})
    engine.load()
    assert engine.infer(a_batch(x=np.ones((1, 2), np.float32)))["y"].tolist() == [[3, 3]]


def test_a_bare_tensor_and_a_tuple_are_named_after_the_declared_outputs(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, "def build(ctx):\n    return lambda x: x + 1\n", ONE_OUTPUT)
    engine.load()
    assert engine.infer(a_batch(x=np.zeros((1, 3), np.float32)))["y"].tolist() == [[1, 1, 1]]
    undeclared = an_engine(tmp_path, "def build(ctx):\n    return lambda x: x + 1\n")
    undeclared.load()
    with pytest.raises(ModelError, match="returned 1 tensors, 0 outputs are declared"):
        undeclared.infer(a_batch(x=np.zeros((1, 3), np.float32)))


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_half_precision_computes_small_and_answers_in_the_declared_type(tmp_path: Path, dtype: str) -> None:
    save(tmp_path, layer__weight=torch.eye(3), layer__bias=torch.ones(3))
    engine = an_engine(tmp_path, LINEAR, ONE_OUTPUT, dtype=dtype)
    engine.load()
    answer = engine.infer(a_batch(x=np.array([[1, 2, 3]], np.float32)))["y"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, [[2, 3, 4]])


def test_gradients_are_never_recorded(tmp_path: Path) -> None:
    source = """
    import torch
    def build(ctx):
        layer = torch.nn.Linear(2, 2)
        def forward(x):
            assert not layer(x).requires_grad and torch.is_inference_mode_enabled()
            return {"y": layer(x)}
        return forward
    """
    engine = an_engine(tmp_path, source)
    engine.load()
    engine.infer(a_batch(x=np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("lambda x: {'y': 3}", "int, expected a tensor"),
        ("lambda x: 3", "int, expected a dictionary"),
        ("lambda x: x.no_such_method()", "no_such_method"),
        ("lambda z: {'y': z}", "unexpected keyword argument 'x'"),
    ],
)
def test_what_a_module_does_wrong_is_a_model_error(tmp_path: Path, body: str, complaint: str) -> None:
    engine = an_engine(tmp_path, f"def build(ctx):\n    return {body}\n")
    engine.load()
    with pytest.raises(ModelError, match=complaint):
        engine.infer(a_batch(x=np.zeros((1, 2), np.float32)))


def test_strings_are_refused_with_advice(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, "def build(ctx):\n    return lambda x: {'y': x}\n")
    engine.load()
    with pytest.raises(ModelError, match="Python model before it"):
        engine.infer(a_batch(x=np.array([b"a"], dtype=object)))


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BYTES])
def test_every_number_type_reaches_torch_unchanged(dtype: DType) -> None:
    from podium.ipc.tensor import NUMPY_DTYPES

    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(NUMPY_DTYPES[dtype])
    tensor = borrowed(Tensor.from_array(array))
    assert tensor.shape == (2, 3)
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_an_empty_batch_is_a_tensor_too() -> None:
    assert borrowed(Tensor.from_array(np.zeros((0, 3), np.float32))).shape == (0, 3)
