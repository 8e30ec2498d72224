"""What a model takes in vLLM on a CPU, reckoned from the heads of its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from podium.weights.vllm import MIB, PROCESS_BYTES, Need, cpu_kv_bytes, need_of, weight_bytes

VALUES = 1 << 20


def a_model(folder: Path, dtype: Any = np.float32) -> Path:
    save_file({"a": np.zeros((VALUES // 2, 2), dtype)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("stored", "parameters", "expected"),
    [
        (np.float32, {"dtype": "float32"}, 4),
        (np.float32, {"dtype": "bfloat16"}, 2),
        (np.float32, {}, 2),
        (np.float16, {"dtype": "float32"}, 4),
        (np.float16, {"dtype": "auto"}, 2),
        (np.float16, {"quantization": "bitsandbytes"}, 0.5),
        (np.int8, {"dtype": "float32"}, 1),
        (np.int32, {}, 4),
    ],
)
def test_weights_count_in_the_type_that_is_computed_with(
    tmp_path: Path, stored: Any, parameters: dict[str, Any], expected: float
) -> None:
    assert weight_bytes(a_model(tmp_path, stored), parameters) == VALUES * expected


def test_a_model_that_lies_there_in_two_forms_counts_once(tmp_path: Path) -> None:
    a_model(tmp_path)
    save_file({"a": np.zeros(VALUES, np.float32)}, tmp_path / "consolidated.safetensors")
    assert weight_bytes(tmp_path, {"dtype": "float32"}) == 4 * VALUES


def test_the_parts_that_an_index_names_count_and_no_others(tmp_path: Path) -> None:
    for name in ("model-1-of-2", "model-2-of-2", "consolidated"):
        save_file({name: np.zeros(VALUES, np.float32)}, tmp_path / f"{name}.safetensors")
    weights = {name: f"{name}.safetensors" for name in ("model-1-of-2", "model-2-of-2")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert weight_bytes(tmp_path, {"dtype": "float32"}) == 8 * VALUES


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a": 1}', b"junk"])
def test_files_that_cannot_be_read_are_left_to_the_load(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert weight_bytes(tmp_path, {}) == 0
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    assert weight_bytes(tmp_path, {}) == 0


def test_a_cache_that_is_asked_for_counts_once_for_every_rank(tmp_path: Path) -> None:
    need = need_of(a_model(tmp_path), {"kv_cache_memory_bytes": 100 * MIB, "tensor_parallel_size": 2}, 0)
    assert (need.kv_cache, need.processes) == (200 * MIB, 3 * PROCESS_BYTES)


def test_a_cache_that_nobody_sized_takes_a_part_of_what_is_left(tmp_path: Path) -> None:
    need = need_of(a_model(tmp_path), {}, 2 * MIB + 2 * PROCESS_BYTES + 800 * MIB)
    assert need == Need(2 * MIB, 200 * MIB, 2 * PROCESS_BYTES)


@pytest.mark.parametrize(
    ("left", "expected"), [(512 * MIB, 128 * MIB), (64 << 30, 4096 * MIB), (100 * MIB, 64 * MIB), (-5 * MIB, 64 * MIB)]
)
def test_the_cache_has_bounds(left: int, expected: int) -> None:
    assert cpu_kv_bytes(left) == expected


def test_what_takes_how_much_is_said() -> None:
    need = Need(weights=300 * MIB, kv_cache=2048 * MIB, processes=1024 * MIB)
    assert need.total == 3372 * MIB
    assert str(need) == "weights 300 MiB, KV cache 2048 MiB, vLLM's processes 1024 MiB"
