"""The arena is one sealed, nameless mapping that both sides see, and that only the writer may write."""

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from podium.errors import ArenaExhausted, DescriptorError
from podium.ipc.arena import Arena
from podium.ipc.descriptor import Descriptor, Inline, SlotRange
from podium.ipc.tensor import Tensor
from podium.ipc.view import ArenaView
from podium_crds.tensors import DType

MIB = 1 << 20


@pytest.fixture
def arena() -> object:
    arena = Arena.create(4 * MIB)
    yield arena
    arena.close()


@pytest.fixture
def view(arena: Arena) -> ArenaView:
    return ArenaView.attach(os.dup(arena.fd), arena.size_bytes)


def reference(tensor: Tensor, arena: Arena, **changes: object) -> Descriptor:
    assert tensor.lease is not None
    slot = tensor.lease.slot
    fields: dict[str, object] = {
        "start": slot.offset,
        "generation": slot.generation,
        "offset": arena.offset_in(slot, tensor.data),
        "nbytes": tensor.nbytes,
        "dtype": tensor.dtype,
        "shape": tensor.shape,
    }
    return Descriptor(**{**fields, **changes})  # type: ignore[arg-type]


def test_its_size_can_never_change(arena: Arena) -> None:
    for size in (0, 8 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)
    assert fcntl.fcntl(arena.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


def test_it_has_no_name(arena: Arena) -> None:
    assert str(Path(f"/proc/self/fd/{arena.fd}").readlink()).endswith("(deleted)")


def test_a_tensor_written_here_is_read_there_without_a_copy(arena: Arena, view: ArenaView) -> None:
    tensor = arena.tensor(DType.FP32, (2, 3))
    tensor.array()[:] = np.arange(6).reshape(2, 3)
    seen = view.input(reference(arena.seal(tensor), arena), [])
    np.testing.assert_array_equal(seen.array(), np.arange(6).reshape(2, 3))
    tensor.array()[0, 0] = 9
    assert seen.array()[0, 0] == 9


def test_inputs_are_read_only_in_the_worker(arena: Arena, view: ArenaView) -> None:
    seen = view.input(reference(arena.tensor(DType.FP32, (4,)), arena), [])
    with pytest.raises(ValueError, match="read-only"):
        seen.array()[0] = 1


def test_a_sealed_tensor_is_read_only_in_the_front_end(arena: Arena) -> None:
    sealed = arena.seal(arena.tensor(DType.INT8, (4,)))
    with pytest.raises(ValueError, match="read-only"):
        sealed.array()[0] = 1


def test_outputs_are_written_through_the_grant_alone(arena: Arena, view: ArenaView) -> None:
    buffer = arena.allocate(100)
    slot = buffer.lease.slot
    grant = SlotRange(slot.offset, slot.generation, 100)
    view.output(grant, 64, 36)[:] = b"y" * 36
    assert bytes(buffer.data[64:]) == b"y" * 36
    for offset, nbytes in ((0, 101), (99, 2), (-1, 1)):
        with pytest.raises(DescriptorError):
            view.output(grant, offset, nbytes)


@pytest.mark.parametrize(
    "changes",
    [
        {"nbytes": 15},
        {"shape": (5,)},
        {"dtype": DType.INT64},
        {"offset": 4 * MIB, "nbytes": 16},
        {"start": 4 * MIB},
        {"start": 1},
        {"generation": 0},
    ],
    ids=str,
)
def test_a_worker_refuses_a_reference_that_contradicts_itself(
    arena: Arena, view: ArenaView, changes: dict[str, object]
) -> None:
    tensor = arena.tensor(DType.FP32, (4,))
    view.input(reference(tensor, arena), [])
    with pytest.raises(DescriptorError):
        view.input(reference(tensor, arena, **changes), [])


def test_a_worker_refuses_a_generation_that_is_over(arena: Arena, view: ArenaView) -> None:
    old = arena.tensor(DType.UINT8, (4,))
    stale = reference(old, arena)
    old.release()
    new = arena.tensor(DType.UINT8, (4,))
    view.input(reference(new, arena), [])
    with pytest.raises(DescriptorError, match="is over"):
        view.input(stale, [])


def test_an_inline_payload_must_exist_and_fit_its_shape(view: ArenaView) -> None:
    assert view.input(Inline(0, DType.UINT8, (3,)), [b"abc"]).array().tolist() == [97, 98, 99]
    with pytest.raises(DescriptorError):
        view.input(Inline(1, DType.UINT8, (3,)), [b"abc"])
    with pytest.raises(DescriptorError):
        view.input(Inline(0, DType.UINT8, (4,)), [b"abc"])


def test_an_arena_of_another_size_or_without_seals_is_not_mapped(arena: Arena) -> None:
    with pytest.raises(DescriptorError):
        ArenaView.attach(os.dup(arena.fd), 8 * MIB)
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4 * MIB)
    with pytest.raises(DescriptorError):
        ArenaView.attach(unsealed, 4 * MIB)


def test_a_full_arena_says_so_and_has_room_again_after_a_release(arena: Arena) -> None:
    everything = arena.tensor(DType.UINT8, (4 * MIB,))
    with pytest.raises(ArenaExhausted):
        arena.tensor(DType.UINT8, (1,))
    everything.release()
    arena.tensor(DType.UINT8, (1,)).release()
    assert arena.stats().high_water_bytes == 4 * MIB


def test_data_from_elsewhere_has_no_place_in_a_slot(arena: Arena) -> None:
    first, second = arena.tensor(DType.UINT8, (8,)), arena.tensor(DType.UINT8, (8,))
    assert first.lease is not None
    assert arena.offset_in(first.lease.slot, first.data[3:]) == 3
    with pytest.raises(DescriptorError):
        arena.offset_in(first.lease.slot, second.data)
    with pytest.raises(DescriptorError):
        arena.offset_in(first.lease.slot, memoryview(b"heap"))
