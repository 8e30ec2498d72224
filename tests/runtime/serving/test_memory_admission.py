"""A model whose weights cannot fit is refused before it is loaded, with the numbers and the way out."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import httpx
from tests.runtime.serving.builders import SLOW_CODE, a_member, a_revision, an_assignment
from tests.runtime.serving.processes import cgroup, running_pod

from podium.serving.workers.footprint import Footprint, does_not_fit, footprint_of
from podium.weights.vllm import MIN_CPU_KV_BYTES, PROCESS_BYTES
from podium_crds.assignment import (
    Artifact,
    EngineKind,
    EngineSpec,
    Graph,
    Member,
    Report,
    Revision,
    Step,
    StepInput,
)
from podium_crds.reasons import Reason

MIB = 1 << 20
LIMIT_BYTES = 640 * MIB


def safetensors(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> Path:
    """A file with that header, and holes for data: it takes no room on the disk."""
    header, position = {}, 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + nbytes]}
        position += nbytes
    head = json.dumps({"__metadata__": {"made": "here"}, **header}).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + position)
    return file


def weights(folder: Path, mib: int) -> Path:
    """An artifact of the builders' model beside that many MiB of weights."""
    folder.mkdir()
    (folder / "scale.py").write_text(SLOW_CODE)
    safetensors(folder / "model.safetensors", {"w": ("F32", (mib, 1 << 18), mib * MIB)})
    return folder


def of(folder: Path, kind: EngineKind, **engine: object) -> Footprint:
    member = a_member(2, engine=EngineSpec(kind=kind, **engine))  # type: ignore[arg-type]
    return footprint_of(member, folder, on_cpu=True)


def test_weights_that_torch_maps_count_once_and_converted_ones_in_each_instance(tmp_path: Path) -> None:
    file = safetensors(
        tmp_path / "model.safetensors", {"w": ("F32", (1000, 256), 1_024_000), "ids": ("I64", (1000,), 8000)}
    )
    entrypoint = {"entrypoint": "m:build"}
    assert of(tmp_path, EngineKind.TORCH, **entrypoint) == Footprint(mapped_bytes=file.stat().st_size)
    assert of(tmp_path, EngineKind.TORCH, dtype="FP32", **entrypoint) == Footprint(file.stat().st_size)
    assert of(tmp_path, EngineKind.TORCH, dtype="FP16", **entrypoint) == Footprint(8000, 512_000)
    assert Footprint(8000, 512_000).total(3) == 8000 + 3 * 512_000


def test_files_that_are_read_count_in_each_instance(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(bytes(5000))
    assert of(tmp_path, EngineKind.ONNX, file="graph.onnx") == Footprint(private_bytes=5000)
    assert of(tmp_path, EngineKind.TORCH, file="graph.onnx", format="TorchScript") == Footprint(private_bytes=5000)


def test_language_models_count_with_their_cache_and_processes_in_each_instance(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1-of-2.safetensors", {"a": ("F32", (500,), 2000)})
    safetensors(tmp_path / "model-2-of-2.safetensors", {"b": ("BF16", (500,), 1000), "c": ("I8", (10,), 10)})
    found = of(tmp_path, EngineKind.VLLM, parameters={"kv_cache_memory_bytes": 100 * MIB})
    assert found.private_bytes == 2010 + 100 * MIB + 2 * PROCESS_BYTES
    assert "KV cache 100 MiB" in does_not_fit("m", found, 2, 0, None)


def test_on_a_gpu_and_of_what_cannot_be_read_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    assert of(tmp_path, EngineKind.VLLM).private_bytes == MIN_CPU_KV_BYTES + 2 * PROCESS_BYTES
    assert of(tmp_path, EngineKind.ONNX, file="missing.onnx") == Footprint()
    safetensors(tmp_path / "model.safetensors", {"a": ("F32", (500,), 2000)})
    assert footprint_of(a_member(2), tmp_path, on_cpu=False) == Footprint()


def a_heavy(factor: float, folder: Path, instances: int = 1) -> Revision:
    revision = a_revision(factor)
    artifact = Artifact(uri=f"file://{folder}")
    member = revision.members[0].model_copy(update={"artifact": artifact, "instances": instances})
    return revision.model_copy(update={"members": (member,)})


def failed(report: Report, revision: str) -> bool:
    found = report.revision(revision)
    return found is not None and found.last_failure is not None


async def test_a_first_load_that_cannot_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with cgroup(LIMIT_BYTES) as prefix, running_pod(tmp_path, prefix) as pod:
        pod.push(an_assignment(1, a_heavy(2, weights(tmp_path / "a", 700))))
        report = await asyncio.to_thread(pod.reports, lambda r: failed(r, "scale-2"))
        assert report.memory_limit_bytes == LIMIT_BYTES
        failure = report.revision("scale-2").last_failure  # type: ignore[union-attr]
        assert failure is not None
        assert failure.reason is Reason.LOAD_FAILED
        assert "scale does not fit: its weights take 700 MiB (700 MiB mapped for all of them)" in failure.message
        assert "the container of 640 MiB has" in failure.message
        assert "raise resources.limits.memory" in failure.message
        assert not report.revision("scale-2").members  # type: ignore[union-attr]


async def test_a_candidate_that_cannot_fit_beside_what_serves_is_refused_and_what_serves_stays(tmp_path: Path) -> None:
    with cgroup(LIMIT_BYTES) as prefix, running_pod(tmp_path, prefix) as pod:
        first, second = a_heavy(2, weights(tmp_path / "a", 250)), a_heavy(3, weights(tmp_path / "b", 251))
        pod.push(an_assignment(1, first))
        before = await asyncio.to_thread(pod.serves, "scale-2")
        assert before.headroom_bytes is not None
        assert before.headroom_bytes < LIMIT_BYTES - 250 * MIB, "mapped weights are no headroom"
        pod.push(an_assignment(2, first, second))
        report = await asyncio.to_thread(pod.reports, lambda r: failed(r, "scale-3"))
        failure = report.revision("scale-3").last_failure  # type: ignore[union-attr]
        assert failure is not None
        assert failure.reason is Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP
        assert report.revision("scale-2").members[0].pids == before.revision("scale-2").members[0].pids  # type: ignore[union-attr]


def a_chain(name: str, *members: Member) -> Revision:
    """A pipeline of these one after the other."""
    steps = tuple(
        Step(
            name=member.name,
            model=member.name,
            inputs=(StepInput(name="x", source=f"{members[at - 1].name}.y" if at else "request.x"),),
        )
        for at, member in enumerate(members)
    )
    graph = Graph(steps=steps, outputs=(StepInput(name="y", source=f"{members[-1].name}.y"),))
    return Revision(name=name, version=name, members=members, graph=graph, timeout_seconds=10)


async def test_a_model_that_a_pipeline_s_next_version_adds_has_no_room_beside_what_that_replaces(
    tmp_path: Path,
) -> None:
    def heavy(name: str, folder: str, mib: int) -> Member:
        artifact = Artifact(uri=f"file://{weights(tmp_path / folder, mib)}")
        return a_member(2, name=name, load_hash=folder, artifact=artifact)

    with cgroup(LIMIT_BYTES) as prefix, running_pod(tmp_path, prefix) as pod:
        kept, old, new = heavy("kept", "k", 20), heavy("old", "o", 250), heavy("new", "n", 251)
        first, second = a_chain("chain-1", kept, old), a_chain("chain-2", kept, new)
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "chain-1")
        pod.push(an_assignment(2, first, second))
        report = await asyncio.to_thread(pod.reports, lambda r: failed(r, "chain-2"))
        failure = report.revision("chain-2").last_failure  # type: ignore[union-attr]
        assert failure is not None
        assert failure.reason is Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP
        assert failure.message.startswith("model new: ")


async def test_a_load_waits_for_the_memory_of_what_is_on_its_way_out(tmp_path: Path) -> None:
    first, second, third = (a_heavy(n, weights(tmp_path / f"{n}", 200 + n)) for n in (2, 3, 4))
    with cgroup(LIMIT_BYTES) as prefix, running_pod(tmp_path, prefix) as pod:
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "scale-2")
        pod.push(an_assignment(2, second, first))
        await asyncio.to_thread(pod.serves, "scale-3")
        async with httpx.AsyncClient(base_url=pod.url, timeout=30) as client:
            body = {"inputs": {"x": [60.0]}}  # six seconds
            long = asyncio.create_task(client.post("/v1/models/scale/versions/2:predict", json=body))
            await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-2").in_flight)
            pod.push(an_assignment(3, second, third))
            report = await asyncio.to_thread(pod.reports, lambda r: is_ready(r, "scale-4") or failed(r, "scale-4"))
            assert report.revision("scale-4").last_failure is None  # type: ignore[union-attr]
            assert (await long).status_code == 200


def is_ready(report: Report, revision: str) -> bool:
    found = report.revision(revision)
    return found is not None and found.state == "Ready"
