"""Exported programs and TorchScript: the same answers as the module, weights mapped, nothing unpickled."""

import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.runtime.engines.test_torch_workers import private_dirty_bytes
from tests.runtime.worker.models import GroupMaker

from podium.engines.base import ContractLoadError, EngineBatch, LoadError, context_of
from podium.engines.torch_engine import TorchEngine
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.torch

WIDTH = 3
ROWS = torch.export.Dim("rows", min=1, max=4096)


class Net(torch.nn.Module):
    """A weight, a buffer, a constant, and an output by name."""

    offset: torch.Tensor

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.register_buffer("offset", torch.arange(float(width)))
        self.constant = torch.ones(width)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.layer(x) * scale + self.offset + self.constant}


def tensor(name: str, shape: tuple[int, ...] = (-1, WIDTH)) -> TensorSpec:
    return TensorSpec(name=name, dtype=DType.FP32, shape=shape)


INPUTS = (tensor("x"), tensor("scale"))


def export(net: torch.nn.Module, path: Path, *, dynamic: bool = True, width: int = WIDTH) -> Path:
    example = (torch.ones(2, width), torch.ones(2, width))
    shapes = {"x": {0: ROWS}, "scale": {0: ROWS}} if dynamic else None
    torch.export.save(torch.export.export(net, example, dynamic_shapes=shapes), path)
    return path


def script(net: torch.nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(net), path)
    return path


def an_engine(folder: Path, file: str, kind: str, inputs: tuple[TensorSpec, ...] = (), **more: Any) -> TorchEngine:
    spec = EngineSpec(kind=EngineKind.TORCH, file=file, format=kind, **more)
    member = Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=spec)
    engine = TorchEngine(spec, context_of(member, folder, "cpu"), (tensor("y"),), inputs)
    engine.load()
    return engine


def a_batch(x: torch.Tensor, scale: torch.Tensor) -> EngineBatch:
    arrays = {"x": x.numpy(), "scale": scale.numpy()}
    return EngineBatch({name: Tensor.from_array(array) for name, array in arrays.items()}, (len(x),))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")
@pytest.mark.parametrize(("make", "kind"), [(export, "ExportedProgram"), (script, "TorchScript")])
def test_a_file_answers_as_the_module_does(tmp_path: Path, make: Callable[..., Path], kind: str) -> None:
    net = Net().eval()
    make(net, tmp_path / "model.pt2")
    engine = an_engine(tmp_path, "model.pt2", kind, INPUTS)
    for rows in (1, 2, 7):
        x, scale = torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)
        with torch.inference_mode():
            expected = net(x, scale)["y"]
        np.testing.assert_allclose(engine.infer(a_batch(x, scale))["y"], expected, rtol=1e-6)


def test_inputs_that_were_exported_by_keyword_are_found(tmp_path: Path) -> None:
    net = Net().eval()
    example = {"x": torch.ones(2, WIDTH), "scale": torch.ones(2, WIDTH)}
    program = torch.export.export(net, (), example, dynamic_shapes={"x": {0: ROWS}, "scale": {0: ROWS}})
    torch.export.save(program, tmp_path / "model.pt2")
    engine = an_engine(tmp_path, "model.pt2", "ExportedProgram", INPUTS)
    answer = engine.infer(a_batch(torch.zeros(1, WIDTH), torch.zeros(1, WIDTH)))["y"]
    np.testing.assert_allclose(answer, [[1, 2, 3]])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")
def test_torch_script_computes_in_another_type(tmp_path: Path) -> None:
    script(Net().eval(), tmp_path / "model.pt")
    engine = an_engine(tmp_path, "model.pt", "TorchScript", INPUTS, dtype="BF16")
    answer = engine.infer(a_batch(torch.zeros(1, WIDTH), torch.zeros(1, WIDTH)))["y"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ((tensor("x"),), "its input 'scale' is not declared"),
        ((*INPUTS, tensor("mask")), "the program has no input 'mask'"),
        ((tensor("x", (-1,)), INPUTS[1]), "'x' has 2 dimensions"),
        ((tensor("x", (-1, 4)), INPUTS[1]), "'x' has shape [-1, 3]"),
    ],
)
def test_a_contract_that_the_program_breaks_is_refused_with_both_sides(
    tmp_path: Path, inputs: tuple[TensorSpec, ...], complaint: str
) -> None:
    export(Net(), tmp_path / "model.pt2")
    with pytest.raises(ContractLoadError, match=r"Declared: x .*Program: x \[-1, 3\]") as caught:
        an_engine(tmp_path, "model.pt2", "ExportedProgram", inputs)
    assert complaint in str(caught.value)


def test_a_program_of_one_batch_size_is_refused_with_what_to_do(tmp_path: Path) -> None:
    export(Net(), tmp_path / "model.pt2", dynamic=False)
    with pytest.raises(ContractLoadError, match="exactly 2 rows: export it with dynamic_shapes"):
        an_engine(tmp_path, "model.pt2", "ExportedProgram", INPUTS)


@pytest.mark.parametrize("kind", ["ExportedProgram", "TorchScript"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(64)])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.pt2"):
        an_engine(tmp_path, "model.pt2", kind)


@pytest.mark.parametrize("kind", ["ExportedProgram", "TorchScript"])
def test_a_file_outside_the_artifact_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "artifact").mkdir()
    export(Net(), tmp_path / "model.pt2")
    (tmp_path / "artifact" / "link.pt2").symlink_to(tmp_path / "model.pt2")
    for name in ("../model.pt2", "link.pt2", "none.pt2"):
        with pytest.raises(LoadError, match="has no file"):
            an_engine(tmp_path / "artifact", name, kind)


class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> None:
    """The archive with every entry passed through `change`, and more entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(entries)).partition("/")[0]
    entries = {name: change(name, data) for name, data in entries.items()}
    entries |= {f"{root}/{name}": data for name, data in (extra or {}).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def torch_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_no_part_of_an_exported_program_is_unpickled(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    bomb = torch_pickle({"a": Bomb(fired)})
    changes: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes]]] = {
        "example inputs": (lambda name, data: bomb if "sample_inputs" in name else data, {}),
        "old weights": (lambda _, data: data, {"data/weights/model.pt": bomb}),
        "old constants": (lambda _, data: data, {"data/constants/model.pt": bomb}),
        "an object": (lambda _, data: data, {"data/constants/opaque_obj_0": pickle.dumps(Bomb(fired))}),
        "a torch object": (lambda _, data: data, {"data/constants/custom_obj_0": bomb}),
        "a weight": (
            lambda name, data: (
                data.replace(b'"use_pickle": false', b'"use_pickle": true ')
                if name.endswith("weights_config.json")
                else bomb
                if re.search("data/weights/weight_", name)
                else data
            ),
            {},
        ),
        "native code": (lambda _, data: data, {"data/aotinductor/model/a.so": b"code"}),
    }
    for what, (change, extra) in changes.items():
        path = export(Net(), tmp_path / "model.pt2")
        rewritten(path, change, extra)
        with pytest.raises(LoadError):
            an_engine(tmp_path, "model.pt2", "ExportedProgram")
        assert not fired.exists(), what


def test_a_rewritten_archive_without_a_bomb_still_loads(tmp_path: Path) -> None:
    path = export(Net(), tmp_path / "model.pt2")
    rewritten(path, lambda _, data: data)
    an_engine(tmp_path, "model.pt2", "ExportedProgram", INPUTS)


@pytest.mark.asyncio(loop_scope="module")
async def test_instances_share_the_pages_of_an_exported_programs_weights(groups: GroupMaker, tmp_path: Path) -> None:
    side = 3000
    most = {width: await most_private_bytes(groups, tmp_path / f"{width}.pt2", width) for width in (WIDTH, side)}
    assert most[side] - most[WIDTH] < side * side * 4 // 4, "weights are no private copy"


async def most_private_bytes(groups: GroupMaker, file: Path, width: int) -> int:
    """Of two workers of a program whose weights are width x width."""
    export(Net(width), file, width=width)
    engine = {"kind": EngineKind.TORCH, "entrypoint": "", "file": file.name, "format": "ExportedProgram"}
    group = await WorkerGroup.start(groups.member(engine=engine, instances=2), file.parent, pod=groups.pod)
    groups.groups.append(group)
    return max(private_dirty_bytes(pid) for pid in group.stats().pids)
