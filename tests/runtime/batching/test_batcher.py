"""Batches are formed and split byte for byte, with one copy in and none out."""

import asyncio
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from podium.batching.batcher import GatheredInputs, GrantedSlot, lease_out, read_outputs
from podium.batching.batcher import gather as gather_with
from podium.batching.bisect import halves
from podium.batching.grants import OutputSize
from podium.batching.joining import STACKED
from podium.batching.layouts import layout
from podium.batching.queue import Waiting
from podium.batching.splitting import split
from podium.errors import ArenaExhausted, DescriptorError, LeaseError, ModelError
from podium.ipc.arena import Arena
from podium.ipc.descriptor import ALIGNMENT, Descriptor, Inline, grant_of
from podium.ipc.lease import FRONT_END, Holder
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType, TensorSpec

WORKER = Holder("worker", 1)
MIB = 1 << 20
NOTHING = GatheredInputs({}, [], [], 0)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(4 * MIB, debug=True)
    yield arena
    arena.ledger.check_integrity()
    arena.close()


def a_request(**arrays: NDArray[np.generic] | Tensor) -> Waiting:
    inputs = {name: a if isinstance(a, Tensor) else Tensor.from_array(a) for name, a in arrays.items()}
    rows, bucket = layout(inputs)
    loop = asyncio.new_event_loop()
    loop.close()
    return Waiting("id", inputs, rows, bucket, 1.0, 0.0, asyncio.Future(loop=loop))


def gather(batch: list[Waiting], arena: Arena, holder: Holder, inline_bytes: int) -> GatheredInputs:
    return gather_with(batch, STACKED, arena, holder, inline_bytes)


def in_arena(arena: Arena, array: NDArray[np.generic]) -> Tensor:
    heap = Tensor.from_array(array)
    tensor = arena.tensor(heap.dtype, heap.shape, heap.nbytes)
    tensor.data[:] = heap.data
    return arena.seal(tensor)


def read_back(inputs: object, arena: Arena, aligned_to: int = ALIGNMENT) -> dict[str, NDArray[np.generic]]:
    """What a worker would see."""
    from podium.batching.batcher import GatheredInputs

    assert isinstance(inputs, GatheredInputs)
    arrays = {}
    for name, ref in inputs.refs.items():
        if isinstance(ref, Inline):
            data = memoryview(inputs.payloads[ref.frame])
        else:
            slot = next(slot for slot in arena.ledger.slots() if slot.generation == ref.generation)
            assert ref.offset % aligned_to == 0
            data = arena.read(slot, ref.offset, ref.nbytes)
        arrays[name] = Tensor(ref.dtype, ref.shape, data).array()
    return arrays


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([0, 1 << 20]), st.randoms())
def test_a_batch_is_the_concatenation_of_its_requests(rows: list[int], inline_bytes: int, random: object) -> None:
    arena = Arena.create(4 * MIB, debug=True)
    rng = np.random.default_rng(len(rows))
    parts = [(rng.random((n, 7)).astype(np.float32), rng.integers(0, 9, (n,), np.int64)) for n in rows]
    texts = [np.array([f"{i}-{'é' * i}".encode() for i in range(n)], dtype=object) for n in rows]
    batch = [a_request(x=x, y=y, text=t) for (x, y), t in zip(parts, texts, strict=True)]
    inputs = gather(batch, arena, WORKER, inline_bytes)
    seen = read_back(inputs, arena)
    np.testing.assert_array_equal(seen["x"], np.concatenate([x for x, _ in parts]))
    np.testing.assert_array_equal(seen["y"], np.concatenate([y for _, y in parts]))
    assert seen["text"].tolist() == [t for text in texts for t in text]
    inputs.release()
    assert arena.stats().used_bytes == 0
    arena.close()


def test_a_single_request_that_lies_in_the_arena_goes_as_it_is(arena: Arena) -> None:
    tensor = in_arena(arena, np.arange(5000, dtype=np.int32))
    inputs = gather([a_request(x=tensor)], arena, WORKER, 0)
    assert inputs.gathered_bytes == 0
    ref = inputs.refs["x"]
    assert isinstance(ref, Descriptor)
    assert tensor.lease is not None
    assert ref.generation == tensor.lease.slot.generation
    tensor.release()
    np.testing.assert_array_equal(read_back(inputs, arena)["x"], np.arange(5000))
    inputs.release()
    assert arena.stats().used_bytes == 0


def rows_of(whole: Tensor, *rows: int) -> list[Tensor]:
    """Shares of one batch's output, as the step before left them."""
    return [share["y"] for share in split({"y": whole}, rows)]


def test_rows_that_the_step_before_left_side_by_side_are_not_gathered(arena: Arena) -> None:
    whole = in_arena(arena, np.arange(5000, dtype=np.int32).reshape(10, 500))
    first, second, third = rows_of(whole, 2, 3, 5)
    inputs = gather([a_request(x=second), a_request(x=third)], arena, WORKER, 0)
    assert (inputs.gathers, inputs.gathered_bytes) == (0, 0)
    assert read_back(inputs, arena, aligned_to=4)["x"].tolist() == whole.array()[2:].tolist()
    whole.release()
    inputs.release()
    assert arena.stats().slots == 0
    assert first.nbytes == 4000


def test_rows_in_another_order_with_a_gap_or_of_another_slot_are_gathered(arena: Arena) -> None:
    whole = in_arena(arena, np.arange(5000, dtype=np.int32).reshape(10, 500))
    other = in_arena(arena, np.arange(5000, dtype=np.int32).reshape(10, 500) + 5000)
    first, second, third = rows_of(whole, 2, 3, 5)
    for batch in ([second, first], [first, third], [first, rows_of(other, 2, 3, 5)[1]], [first, first]):
        inputs = gather([a_request(x=x) for x in batch], arena, WORKER, 0)
        assert inputs.gathers == 1
        expected = np.concatenate([x.array() for x in batch])
        np.testing.assert_array_equal(read_back(inputs, arena)["x"], expected)
        inputs.release()
    whole.release()
    other.release()


def test_a_heap_tensor_beside_one_in_the_arena_is_all_that_is_copied(arena: Arena) -> None:
    large = in_arena(arena, np.arange(5000, dtype=np.int32).reshape(1, 5000))
    inputs = gather([a_request(x=large, scale=np.full((1,), 7, np.int32))], arena, WORKER, 1024)
    assert list(inputs.refs) == ["x", "scale"]
    assert (inputs.gathers, inputs.gathered_bytes) == (1, 4)
    seen = read_back(inputs, arena)
    assert seen["scale"].tolist() == [7]
    assert seen["x"].tolist() == large.array().tolist()
    large.release()
    inputs.release()
    assert arena.stats().slots == 0


def test_a_batch_that_finds_no_room_for_what_it_copies_holds_nothing(arena: Arena) -> None:
    large = in_arena(arena, np.zeros((1, 4096), np.int8))
    held = arena.stats().slots
    with pytest.raises(ArenaExhausted):
        gather([a_request(x=large, y=np.zeros((1, 65 * MIB), np.int8))], arena, WORKER, 0)
    assert arena.stats().slots == held
    large.release()
    assert arena.stats().slots == 0


def test_tensors_of_one_body_share_its_slot(arena: Arena) -> None:
    buffer = arena.allocate(128)
    buffer.data[:] = bytes(range(128))
    one = Tensor(DType.UINT8, (64,), buffer.data[:64], buffer.lease)
    two = Tensor(DType.UINT8, (64,), buffer.data[64:], buffer.lease)
    inputs = gather([a_request(one=one, two=two)], arena, WORKER, 0)
    assert len(inputs.leases) == 1
    seen = read_back(inputs, arena)
    assert seen["two"].tolist() == list(range(64, 128))
    inputs.release()
    buffer.release()


def test_without_arena_room_a_batch_travels_in_the_message(arena: Arena) -> None:
    blocker = arena.allocate(4 * MIB)
    batch = [a_request(x=np.ones((1, 5000), np.float32)), a_request(x=np.ones((1, 5000), np.float32))]
    inputs = gather(batch, arena, WORKER, 0)
    assert len(inputs.payloads) == 1
    assert not inputs.leases
    blocker.release()


def test_a_batch_too_large_for_arena_and_message_is_refused(arena: Arena) -> None:
    with pytest.raises(ArenaExhausted):
        gather([a_request(x=np.zeros((1, 65 * MIB), np.int8))], arena, WORKER, 0)


def outputs_in_grant(arena: Arena, *arrays: NDArray[np.generic]) -> tuple[dict[str, Tensor], GrantedSlot]:
    """Outputs `o0`, `o1`… stored in one granted slot as a worker does."""
    tensors = [Tensor.from_array(array) for array in arrays]
    buffer = arena.allocate(64 * 1024, WORKER)
    grant = GrantedSlot(buffer.lease, grant_of(buffer.lease.slot, 64 * 1024))
    refs, offset = {}, 0
    for index, tensor in enumerate(tensors):
        buffer.data[offset : offset + tensor.nbytes] = tensor.data
        slot = buffer.lease.slot
        refs[f"o{index}"] = Descriptor(slot.offset, slot.generation, offset, tensor.nbytes, tensor.dtype, tensor.shape)
        offset += -(-tensor.nbytes // 64) * 64
    arena.ledger.seal(buffer.lease.slot)
    return read_outputs(refs, [], NOTHING, grant, arena), grant


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_each_request_gets_exactly_its_rows(rows: list[int]) -> None:
    arena = Arena.create(4 * MIB, debug=True)
    total = sum(rows)
    numbers = np.arange(total * 3, dtype=np.float64).reshape(total, 3)
    texts = np.array([b"t" * (i % 7) for i in range(total * 2)], dtype=object).reshape(total, 2)
    outputs, grant = outputs_in_grant(arena, numbers, texts)
    shares = [lease_out(share, arena, FRONT_END) for share in split(outputs, rows)]
    grant.lease.revoke()
    start = 0
    for share, count in zip(shares, rows, strict=True):
        np.testing.assert_array_equal(share["o0"].array(), numbers[start : start + count])
        np.testing.assert_array_equal(share["o1"].array(), texts[start : start + count])
        start += count
    for share in reversed(shares):
        assert arena.stats().slots == 1
        for tensor in share.values():
            tensor.release()
    assert arena.stats().slots == 0
    arena.ledger.check_integrity()
    arena.close()


def test_an_output_released_once_too_often_is_an_error(arena: Arena) -> None:
    outputs, grant = outputs_in_grant(arena, np.zeros((2, 2)))
    (share,) = [lease_out(share, arena, FRONT_END) for share in split(outputs, [2])]
    grant.lease.revoke()
    share["o0"].release()
    with pytest.raises(LeaseError):
        share["o0"].release()


def test_an_output_with_the_wrong_number_of_rows_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="expected 3 rows"):
        split({"y": Tensor.from_array(np.zeros((2, 2)))}, [1, 2])


def test_strings_that_do_not_fill_their_rows_are_the_models_fault() -> None:
    with pytest.raises(ModelError):
        split({"y": Tensor(DType.BYTES, (2,), memoryview(b"\x01\x00\x00\x00aa"))}, [1, 1])


def test_an_answer_that_names_a_missing_payload_is_refused(arena: Arena) -> None:
    with pytest.raises(DescriptorError):
        read_outputs({"y": Inline(1, DType.INT8, (1,))}, [b"a"], NOTHING, None, arena)


def passed_on(ref: Descriptor, **changes: object) -> Descriptor:
    """A worker's answer that names its input, or what lies around it."""
    return msgspec.structs.replace(ref, **changes)


def test_an_output_that_is_a_part_of_an_input_is_a_window_of_its_slot(arena: Arena) -> None:
    tensor = in_arena(arena, np.arange(5000, dtype=np.int32))
    inputs = gather([a_request(x=tensor)], arena, WORKER, 0)
    ref = inputs.refs["x"]
    assert isinstance(ref, Descriptor)
    part = passed_on(ref, offset=ref.offset + 400, nbytes=4000, shape=(1000,))
    outputs = lease_out(read_outputs({"y": part, "z": ref}, [], inputs, None, arena), arena, FRONT_END)
    inputs.release()
    tensor.release()
    assert outputs["y"].array().tolist() == list(range(100, 1100))
    assert arena.stats().slots == 1
    outputs["y"].release()
    assert outputs["z"].array().tolist() == list(range(5000)), "its slot ends with the last of its readers"
    outputs["z"].release()
    assert arena.stats().slots == 0


@pytest.mark.parametrize(
    "changes",
    [{"offset": 0}, {"nbytes": 8004, "shape": (2001,)}, {"generation": 99}, {"start": 8192}, {"shape": (3,)}],
    ids=str,
)
def test_an_output_beyond_the_input_that_it_names_is_refused(arena: Arena, changes: dict[str, object]) -> None:
    """A slot may hold the rows of other requests beside those that the worker was given."""
    whole = in_arena(arena, np.arange(5000, dtype=np.int32))
    rows = Tensor(DType.INT32, (2000,), whole.data[4000:12000], whole.lease)
    inputs = gather([a_request(x=rows)], arena, WORKER, 0)
    ref = inputs.refs["x"]
    assert isinstance(ref, Descriptor)
    with pytest.raises(DescriptorError):
        read_outputs({"y": passed_on(ref, **changes)}, [], inputs, None, arena)
    inputs.release()
    whole.release()


def test_halves_keep_the_order_and_lose_nobody() -> None:
    assert halves([1, 2, 3, 4, 5]) == ([1, 2, 3], [4, 5])
    assert halves([1, 2]) == ([1], [2])


def test_output_bytes_come_from_the_declared_shapes() -> None:
    size = OutputSize.of((TensorSpec(name="y", dtype=DType.FP32, shape=(-1, 100)),))
    assert size.estimate(10) >= 4000
    assert size.estimate(10) < 4200


def test_output_bytes_are_learned_where_shapes_are_open() -> None:
    size = OutputSize.of((TensorSpec(name="y", dtype=DType.FP32, shape=(-1, -1)),))
    assert size.estimate(10) == 0
    size.observe(rows=2, nbytes=2000, tensors=1)
    assert size.estimate(10) >= 10_000
