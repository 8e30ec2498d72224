"""Safetensors files by their heads: 8 bytes of length, a JSON header that names every tensor, then the data."""

import json
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 64 << 20
WHOLE = "model.safetensors"
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


def tensors(file: Path) -> list[tuple[str, int]]:
    """(type, elements) of each tensor; none of a file that cannot be read, of which its load says more. Blocking."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError), file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length <= MAX_HEADER_BYTES:
            header: Mapping[str, Any] = json.loads(opened.read(length))
            return [
                (str(entry["dtype"]), prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__"
            ]
    return []


def of_language_model(folder: Path) -> list[Path]:
    """The files of a model in the Hugging Face layout, not those of its author's own form beside them. Blocking."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        index = json.loads((folder / f"{WHOLE}.index.json").read_bytes())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    whole = folder / WHOLE
    return [whole] if whole.exists() else sorted(folder.glob("*.safetensors"))
