"""ONNX graphs: contract held at load, every type through, weights never from outside the artifact, no telemetry."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from tests.runtime.engines.onnx_models import a_linear, an_echo, move_external
from tests.runtime.worker.models import GroupMaker, ask

from podium.engines.base import ContractLoadError, EngineBatch, LoadError, context_of
from podium.engines.onnx_engine import OnnxEngine
from podium.errors import ModelError, WorkerLoadError
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.reasons import Reason
from podium_crds.tensors import DType, TensorSpec

DOUBLE = np.eye(3, dtype=np.float32) * 2


def tensor(name: str, dtype: DType = DType.FP32, shape: tuple[int, ...] = (-1, 3), **more: Any) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, **more)


def an_engine(
    folder: Path, inputs: tuple[TensorSpec, ...] = (), outputs: tuple[TensorSpec, ...] = (), **options: Any
) -> OnnxEngine:
    spec = EngineSpec(kind=EngineKind.ONNX, file=options.pop("file", "model.onnx"), **options)
    member = Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=spec)
    return OnnxEngine(spec, context_of(member, folder, "cpu"), inputs, outputs)


def loaded(*arguments: Any, **options: Any) -> OnnxEngine:
    engine = an_engine(*arguments, **options)
    engine.load()
    return engine


def a_batch(array: Any) -> EngineBatch:
    return EngineBatch({"x": Tensor.from_array(np.asarray(array))}, (1,))


def test_a_graph_answers_by_the_names_of_its_outputs(tmp_path: Path) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE)
    engine = loaded(tmp_path, (tensor("x"),), (tensor("y"),))
    assert engine.infer(a_batch(np.array([[1, 2, 3]], np.float32)))["y"].tolist() == [[2, 4, 6]]
    undeclared = loaded(tmp_path)
    assert list(undeclared.infer(a_batch(np.ones((2, 3), np.float32)))) == ["y"]


@pytest.mark.parametrize("optimization", ["Disabled", "Basic", "Extended", "All"])
@pytest.mark.parametrize("threads", [1, 2])
def test_options_change_no_answer(tmp_path: Path, optimization: str, threads: int) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE)
    engine = loaded(tmp_path, optimization=optimization, threads=threads, spinning=threads == 2)
    assert engine.infer(a_batch(np.ones((1, 3), np.float32)))["y"].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BYTES])
def test_every_number_type_goes_through_unchanged(tmp_path: Path, dtype: DType) -> None:
    kinds = {DType.FP16: "FLOAT16", DType.FP32: "FLOAT", DType.FP64: "DOUBLE"}
    an_echo(tmp_path / "model.onnx", getattr(TensorProto, kinds.get(dtype, dtype.value)))
    engine = loaded(tmp_path, (tensor("x", dtype, (-1,)),), (tensor("y", dtype, (-1,)),))
    array = np.array([0, 1, 1]).astype(NUMPY_DTYPES[dtype])
    answer = engine.infer(a_batch(array))["y"]
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


def test_text_goes_through_and_other_bytes_are_refused(tmp_path: Path) -> None:
    an_echo(tmp_path / "model.onnx", TensorProto.STRING)
    engine = loaded(tmp_path, (tensor("x", DType.BYTES, (-1,)),))
    answer = engine.infer(a_batch(np.array(["a", "é"], dtype=object)))["y"]
    assert Tensor.from_array(answer).array().tolist() == [b"a", "é".encode()]
    with pytest.raises(ModelError, match="UTF-8"):
        engine.infer(a_batch(np.array([b"\xff"], dtype=object)))


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        ((tensor("z"),), (), "the graph has no input 'z'; the graph's input 'x' is not declared"),
        ((tensor("x", DType.INT64),), (), "'x' is FP32 in the graph"),
        ((tensor("x", shape=(-1, 3, 1)),), (), "'x' has 2 dimensions in the graph"),
        ((tensor("x", shape=(-1, 4)),), (), "dimension 1 of 'x' is 3 in the graph"),
        ((tensor("x", shape=(-1, -1)),), (), "dimension 1 of 'x' is 3 in the graph"),
        ((tensor("x", optional=True),), (), "cannot do without it"),
        ((), (tensor("z"),), "the graph has no output 'z'"),
        ((), (tensor("y", DType.FP16),), "'y' is FP32 in the graph"),
        ((), (tensor("y", shape=(-1, 2)),), "dimension 1 of 'y' is 3 in the graph"),
    ],
)
def test_a_contract_that_the_graph_breaks_is_refused_with_both_sides(
    tmp_path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], complaint: str
) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE)
    with pytest.raises(ContractLoadError) as caught:
        loaded(tmp_path, inputs, outputs)
    assert complaint in str(caught.value)
    assert f"Declared: {(inputs or outputs)[0].name} " in str(caught.value)
    assert f"Graph: {'x' if inputs else 'y'} FP32 [-1, 3]" in str(caught.value)


def test_a_graph_of_one_row_is_refused_for_batches_with_what_to_do(tmp_path: Path) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE, rows=1)
    with pytest.raises(
        ContractLoadError, match="exactly 1 rows in the graph: export it with a dynamic first dimension"
    ):
        loaded(tmp_path, (tensor("x"),))
    loaded(tmp_path, (tensor("x", shape=(1, 3)),))


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("other.onnx", "no file 'other.onnx'; it has model.onnx"),
        ("../secret.onnx", "no file '../secret.onnx'"),
        ("text.onnx", "ONNX Runtime cannot load text.onnx"),
    ],
)
def test_a_file_that_is_no_graph_of_the_artifact_is_refused(tmp_path: Path, file: str, complaint: str) -> None:
    a_linear(tmp_path / "secret.onnx", DOUBLE)
    folder = tmp_path / "artifact"
    folder.mkdir()
    a_linear(folder / "model.onnx", DOUBLE)
    (folder / "text.onnx").write_text("no graph")
    with pytest.raises(LoadError) as caught:
        loaded(folder, file=file)
    assert complaint in str(caught.value)


def test_weights_beside_the_graph_are_found_and_those_outside_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    graph = a_linear(folder / "model.onnx", DOUBLE, external="weights.bin")
    assert loaded(folder).infer(a_batch(np.ones((1, 3), np.float32)))["y"].tolist() == [[2, 2, 2]]
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    for location in ("../weights.bin", str(tmp_path / "weights.bin")):
        move_external(graph, location)
        with pytest.raises(LoadError, match="External data"):
            loaded(folder)
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    move_external(graph, "link.bin")
    with pytest.raises(LoadError, match="escapes"):
        loaded(folder)


def test_a_wrong_shape_is_the_models_error_in_one_line(tmp_path: Path) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE)
    with pytest.raises(ModelError, match=r"ONNX Runtime: .*x") as caught:
        loaded(tmp_path).infer(a_batch(np.ones((1, 4), np.float32)))
    assert "\n" not in str(caught.value)


def test_a_gpu_that_this_build_cannot_use_is_refused(tmp_path: Path) -> None:
    a_linear(tmp_path / "model.onnx", DOUBLE)
    engine = an_engine(tmp_path)
    engine._context = context_of(
        Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=engine._spec), tmp_path, "cuda:0"
    )
    with pytest.raises(LoadError, match="no CUDA"):
        engine.load()


def test_nothing_is_reported_to_the_vendor_of_the_library(tmp_path: Path) -> None:
    check = """
import os
import podium.engines.onnx_engine
import onnxruntime
links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
open_files = [os.readlink(link) for link in links if os.path.lexists(link)]
assert not [name for name in open_files if name.endswith(".db")], open_files
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "CI"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_answers_and_a_broken_contract_fails_its_load(groups: GroupMaker, tmp_path: Path) -> None:
    artifact = tmp_path / "graph"
    artifact.mkdir()
    a_linear(artifact / "model.onnx", DOUBLE)
    engine = {"kind": EngineKind.ONNX, "entrypoint": "", "file": "model.onnx", "threads": 2}
    group = await WorkerGroup.start(groups.member(engine=engine, inputs=(tensor("x"),)), artifact, pod=groups.pod)
    groups.groups.append(group)
    answers = await asyncio.gather(*(ask(group, np.full((1, 3), value, np.float32)) for value in range(8)))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, np.full((1, 3), 2 * value))
    with pytest.raises(WorkerLoadError, match="Declared: x INT64") as caught:
        await WorkerGroup.start(
            groups.member(engine=engine, inputs=(tensor("x", DType.INT64),)), artifact, pod=groups.pod
        )
    assert caught.value.reason is Reason.CONTRACT_MISMATCH
