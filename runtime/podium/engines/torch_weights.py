"""Weights as views of a mapped file: their pages are shared by all processes that map it, through the page cache."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from podium.engines.base import LoadError

WEIGHTS = "model.safetensors"
MAX_HEADER_BYTES = 100 << 20
"""Upper bound of a safetensors header, as the format's reference implementation has it."""
SAFETENSORS_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def assign_mapped(module: torch.nn.Module, weights: Path) -> None:
    """Gives an empty module its weights as views of the mapped file. Raises LoadError where some are left empty."""
    missing, unexpected = module.load_state_dict(mapped_tensors(weights), strict=False, assign=True)
    empty = sorted(name for name, tensor in _all_tensors(module) if tensor.is_meta)
    if empty or unexpected:
        raise LoadError(
            f"{WEIGHTS} does not fit: no weights for {_some(empty or missing)}, no place for {_some(unexpected)}"
        )


def mapped_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, at its stored dtype, as a view of one private copy-on-write mapping.

    Format: 8 bytes little-endian header length, JSON header, data. Raises LoadError.
    """
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise LoadError(f"{weights.name} is not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise LoadError(f"{weights.name} is not a safetensors file: {error}") from error
    flat = mapped_bytes(weights)[8 + length :]
    try:
        return {name: _mapped(flat, name, entry) for name, entry in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LoadError(f"the header of {weights.name} describes no tensors: {error!r}") from error


def mapped_bytes(file: Path) -> torch.Tensor:
    """The whole file, uint8, as one private copy-on-write mapping."""
    storage = torch.UntypedStorage.from_file(str(file), shared=False, nbytes=file.stat().st_size)
    return torch.tensor([], dtype=torch.uint8).set_(storage)


def _mapped(flat: torch.Tensor, name: str, entry: Mapping[str, Any]) -> torch.Tensor:
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
    start, end = entry["data_offsets"]
    if dtype is None or not 0 <= start <= end <= flat.numel():
        raise LoadError(f"weight {name!r} of type {entry['dtype']} at {start} to {end} cannot be read")
    data = flat[start:end]
    if (data.data_ptr() % dtype.itemsize) != 0:
        data = data.clone()  # the format aligns its header, not each tensor of a file with mixed types
    return data.view(dtype).reshape(entry["shape"])


def _all_tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
