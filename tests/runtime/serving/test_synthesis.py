"""Batches for a warm-up: few, of the declared shapes, and of no more than would be batched."""

from tests.runtime.serving.builders import a_member

from podium.batching.lengths import InUse, Lengths
from podium.serving.revisions.synthesis import MAX_BYTES, batches
from podium_crds.assignment import Batching, Member
from podium_crds.batching import PaddingSpec
from podium_crds.tensors import DType, TensorSpec


def spec(name: str, *shape: int, dtype: DType = DType.FP32, optional: bool = False) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, optional=optional)


def member(*inputs: TensorSpec, **batching: object) -> Member:
    padding = (PaddingSpec(input="ids"),)
    return a_member(1, inputs=inputs, batching=Batching(max_batch_size=8, padding=padding, **batching))


def shapes(of: Member, rows: tuple[int, ...] = (), *lengths: Lengths) -> list[dict[str, tuple[int, ...]]]:
    made = batches(of, InUse(rows, lengths))
    return [{name: tensor.shape for name, tensor in batch.inputs.items()} for batch in made]


def ids(*found: tuple[int, ...]) -> list[dict[str, tuple[int, ...]]]:
    return [{"ids": shape} for shape in found]


def test_without_traffic_one_row_and_the_largest_size_are_warmed() -> None:
    assert shapes(member(spec("ids", -1, -1))) == ids((1, 1), (8, 1))


def test_sizes_in_use_are_warmed_at_the_shortest_lengths_in_use_at_one_row_and_the_most() -> None:
    found = shapes(member(spec("ids", -1, -1)), (3, 99), {"ids": {1: 20}})
    assert found == ids((1, 1), (3, 1), (8, 1), (1, 20), (8, 20))


def test_no_more_rows_than_would_be_batched_at_a_length() -> None:
    of = member(spec("ids", -1, -1), spec("mask", -1, 1), max_batch_elements=62)
    found = [batch["ids"] for batch in shapes(of, (), {"ids": {1: 20}}, {"ids": {1: 500}})]
    assert found == [(1, 1), (8, 1), (1, 20), (2, 20), (1, 500)]


def test_lengths_of_what_this_version_has_not_or_has_fixed_are_left_out() -> None:
    for other in (spec("ids", -1, 16), spec("tokens", -1, -1), spec("ids", -1)):
        assert len(shapes(member(other), (), {"ids": {1: 20}})) == 2


def test_other_inputs_keep_their_declared_shapes_and_optional_ones_are_left_out() -> None:
    of = member(spec("ids", -1, -1), spec("text", -1, 2, dtype=DType.BYTES), spec("more", -1, optional=True))
    assert shapes(of, (), {"ids": {1: 20}})[-1] == {"ids": (8, 20), "text": (8, 2)}


def test_what_would_fill_the_arena_is_left_out_before_it_is_made() -> None:
    found = shapes(
        member(spec("ids", -1, -1)), (), {"ids": {1: MAX_BYTES // 8}}, {"ids": {1: 1 << 40}}, {"ids": {1: 9}}
    )
    assert found == ids((1, 1), (8, 1), (1, MAX_BYTES // 8), (1, 9), (8, 9))
