"""What outputs will take: declared to the byte, else learned: the largest for grants, the usual for admission."""

from podium.batching.grants import PASSES_ON, SURE_AFTER, OutputSize
from podium_crds.tensors import DType, TensorSpec


def test_closed_shapes_are_known_before_the_first_answer() -> None:
    size = OutputSize.of((TensorSpec(name="y", dtype=DType.FP32, shape=(-1, 100)),))
    assert size.expected(3) == 1200
    assert size.estimate(3) >= 1200


def test_open_shapes_are_learned() -> None:
    size = OutputSize.of((TensorSpec(name="y", dtype=DType.FP32, shape=(-1, -1)),))
    assert size.expected(3) == size.estimate(3) == 0
    for _ in range(SURE_AFTER):
        size.observe(2, 8000, 1)
    assert size.expected(1) == 4000
    assert size.estimate(1) > 4000


def test_nobody_is_refused_for_what_the_first_answer_took() -> None:
    size = OutputSize.of(())
    size.observe(1, 64 << 20, 1)
    assert size.expected(1) == 0
    for _ in range(SURE_AFTER):
        size.observe(1, 1 << 20, 1)
    assert 1 << 20 < size.expected(1) < 4 << 20


def test_one_huge_answer_raises_the_grant_by_little_and_hardly_what_admission_expects() -> None:
    size = OutputSize.of(())
    for _ in range(10):
        size.observe(1, 1 << 20, 1)
    size.observe(1, 64 << 20, 1)
    assert 2 << 20 < size.estimate(1) < 8 << 20
    assert size.expected(1) < 2 << 20
    size.observe(1, 0, 1)
    assert size.expected(1) > 0


def test_a_model_that_passes_its_inputs_on_is_granted_nothing_until_it_stores_again() -> None:
    declared = OutputSize.of((TensorSpec(name="y", dtype=DType.FP32, shape=(-1, 100)),))
    learned = OutputSize.of(())
    learned.observe(1, 400, 1)
    for size in (declared, learned):
        for _ in range(PASSES_ON):
            assert size.estimate(1) > 0
            size.observe(1, 0, 1)
        assert size.estimate(1) == size.expected(1) == 0
        size.observe(1, 400, 1)
        assert size.estimate(1) >= 400
