"""What a model's weights will take of memory, told from its files before anything is loaded.

A lower bound: what a model's own code reads, and how, is known to nobody. So whatever is refused by it could not have
been held, and what it lets pass is still held to its budget while it loads (podium.serving.workers.memory).

| engine | counted |
|---|---|
| Torch, built from `model.safetensors` | mapped once for all instances; where `dtype` changes it, a copy in each |
| Torch, an exported file; Onnx | the file, in each instance |
| VLLM on the CPU | in each instance: the weights in its `dtype`, the KV cache, half a GiB for each process of vLLM |
| Python, Handler | every `.safetensors` file, mapped once |

On a GPU nothing is counted.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podium.weights.files import ITEM_BYTES, WHOLE, tensors
from podium.weights.vllm import need_of
from podium_crds.assignment import EngineKind, Member

MIB = 1 << 20
FLOATS: Mapping[str, str] = {"FP16": "F16", "BF16": "BF16", "FP32": "F32"}
"""The API's names of what Torch can be asked for → the file format's."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a loaded member takes at least."""

    mapped_bytes: int = 0
    """Of files, shared by all instances through the page cache."""
    private_bytes: int = 0
    """Of each instance's own memory."""
    parts: str = ""
    """What makes up an instance's own memory, where that is more than weights."""

    def total(self, instances: int) -> int:
        """Of all instances together."""
        return self.mapped_bytes + self.private_bytes * instances


def footprint_of(member: Member, artifact_dir: Path, *, on_cpu: bool) -> Footprint:
    """Of one member. Blocking: reads file sizes and headers. Files that cannot be read count nothing: the load says
    more of them."""
    if not on_cpu:
        return Footprint()
    engine = member.engine
    match engine.kind:
        case EngineKind.TORCH if engine.file is None:
            return _of_mapped(artifact_dir / WHOLE, FLOATS.get(engine.dtype or ""))
        case EngineKind.TORCH | EngineKind.ONNX:
            return Footprint(private_bytes=_size(artifact_dir / (engine.file or "")))
        case EngineKind.VLLM:
            need = need_of(artifact_dir, engine.parameters)
            return Footprint(private_bytes=need.total, parts=str(need))
        case EngineKind.PYTHON | EngineKind.HANDLER:
            return Footprint(mapped_bytes=sum(_size(file) for file in _weights(artifact_dir)))


def does_not_fit(name: str, footprint: Footprint, instances: int, left_bytes: int, limit_bytes: int | None) -> str:
    """Why a load is refused, and what to change."""
    parts = []
    if footprint.private_bytes:
        of = f": {footprint.parts}" if footprint.parts else ""
        parts.append(f"{instances} x {_mib(footprint.private_bytes)} in its instances{of}")
    if footprint.mapped_bytes:
        parts.append(f"{_mib(footprint.mapped_bytes)} mapped for all of them")
    has = "the machine has" if limit_bytes is None else f"the container of {_mib(limit_bytes)} has"
    fewer = ", or lower instances" if instances > 1 and footprint.private_bytes else ""
    fewer += ", or lower engineArgs.kv_cache_memory_bytes" if footprint.parts else ""
    taken = "loaded it takes" if footprint.parts else "its weights take"
    return (
        f"{name} does not fit: {taken} {_mib(footprint.total(instances))} ({', '.join(parts)}), and {has} "
        f"{_mib(max(0, left_bytes))} left beside the arena and what is loaded; raise resources.limits.memory{fewer}"
    )


def _of_mapped(weights: Path, wanted: str | None) -> Footprint:
    found = tensors(weights)
    floats = {kind for kind, _ in found if kind.startswith(("F", "BF"))}
    if wanted is None or floats <= {wanted}:
        return Footprint(mapped_bytes=_size(weights))
    converted = sum(count for kind, count in found if kind in floats) * ITEM_BYTES[wanted]
    return Footprint(
        mapped_bytes=sum(count * ITEM_BYTES.get(kind, 0) for kind, count in found if kind not in floats),
        private_bytes=converted,
    )


def _weights(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.safetensors")


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
