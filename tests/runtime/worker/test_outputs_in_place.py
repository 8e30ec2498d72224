"""`ctx.output`: what a model writes in place is never copied, and a model that keeps its place harms nobody."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.models import GroupMaker, ask, column

from podium.errors import ModelError
from podium.ipc.lease import FRONT_END
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType, TensorSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

Y = (TensorSpec(name="y", dtype=DType.FP32, shape=(-1, -1)),)
IN_PLACE = """
    import numpy as np
    class Model:
        def load(self, ctx):
            self.ctx = ctx
        def infer(self, inputs):
            x = inputs["x"]
            y = self.ctx.output("y", x.shape)
            np.multiply(x, 2, out=y)
            return {"y": y}
"""


def wide(value: float, rows: int = 1) -> NDArray[np.float32]:
    return np.full((rows, 30_000), value, np.float32)


async def test_an_output_written_in_place_is_not_copied(groups: GroupMaker) -> None:
    group = await groups.start(IN_PLACE, outputs=Y)
    for value in range(3):
        np.testing.assert_array_equal(await ask(group, wide(value)), wide(2 * value))
    assert group.stats().copies.stores == 0
    assert groups.pod.arena.stats().slots == 0


async def test_requests_of_one_batch_get_their_own_rows_of_what_was_written_in_place(groups: GroupMaker) -> None:
    group = await groups.start(IN_PLACE, outputs=Y, batching={"max_batch_size": 16})
    answers = await asyncio.gather(*(ask(group, wide(value, 1 + value % 3)) for value in range(24)))
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, wide(2 * value, 1 + value % 3))
    assert group.stats().copies.stores == 0


async def test_a_part_of_it_in_another_order_and_beside_another_output_is_right(groups: GroupMaker) -> None:
    source = """
    import numpy as np
    class Model:
        def load(self, ctx):
            self.ctx = ctx
        def infer(self, inputs):
            x = inputs["x"]
            place = self.ctx.output("y", (2 * len(x), x.shape[1]), "float32")
            place[: len(x)] = x + 1
            place[len(x):] = x + 2
            fresh = x + 3
            return {"fresh": fresh, "y": place[len(x):], "first": place[: len(x)], "columns": place[: len(x), ::2]}
    """
    group = await groups.start(source)
    inputs = {"x": Tensor.from_array(wide(1))}
    outputs = await group.infer(inputs, request_id="r", deadline=asyncio.get_running_loop().time() + 20)
    expected = {"fresh": wide(4), "y": wide(3), "first": wide(2), "columns": wide(2)[:, ::2]}
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs.pop(name).array(), array)
    assert not outputs
    groups.pod.arena.ledger.drop_holder(FRONT_END)
    assert group.stats().copies.stores == 2, "fresh, and the columns, which do not lie together"


async def test_small_outputs_and_a_fragmented_arena_change_nothing_in_the_answer(groups: GroupMaker) -> None:
    group = await groups.start(IN_PLACE, outputs=Y)
    np.testing.assert_array_equal(await ask(group, column(1)), column(2))
    arena = groups.pod.arena
    pages = [arena.allocate(1) for _ in range(arena.size_bytes // 4096)]
    for page in pages[::2]:
        page.release()
    np.testing.assert_array_equal(await ask(group, wide(4)), wide(8))
    assert arena.stats().slots == len(pages) // 2
    for page in pages[1::2]:
        page.release()


async def test_rows_of_infer_batch_are_joined_where_they_are_sent_from(groups: GroupMaker) -> None:
    source = """
    import time
    class Model:
        def infer_batch(self, requests):
            time.sleep(0.01)
            return [{"y": request["x"] * 2} for request in requests]
    """
    group = await groups.start(source, outputs=Y)
    await asyncio.gather(*(ask(group, wide(value)) for value in range(8)))
    stats = group.stats()
    assert stats.copies.stores == stats.batch_sizes.get(1, 0), "batches of one have nothing to join"
    assert max(stats.batch_sizes) > 1


async def test_a_model_that_keeps_its_place_and_writes_there_later_changes_no_other_answer(groups: GroupMaker) -> None:
    source = """
    class Model:
        kept = []
        def load(self, ctx):
            self.ctx = ctx
        def infer(self, inputs):
            for place in self.kept:
                place[:] = -7
            place = self.ctx.output("y", inputs["x"].shape)
            place[:] = inputs["x"] * 2
            self.kept.append(place)
            return {"y": place}
    """
    keeper, other = await groups.start(source, outputs=Y), await groups.start(IN_PLACE, outputs=Y)
    for value in range(6):
        answers = await asyncio.gather(ask(keeper, wide(value)), *(ask(other, wide(10 + value)) for _ in range(4)))
        np.testing.assert_array_equal(answers[0], wide(2 * value))
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, wide(20 + 2 * value))
    assert groups.pod.arena.stats().slots == 1, "the place that is kept is nobody else's; later ones were private"
    assert keeper.stats().restarts == 0


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("('z', (1, 2))", "not declared"),
        ("('y', (1, 2), 'complex64')", "complex"),
        ("('y', (-1, 2))", "shape"),
        ("('y', (1,) * 99)", "shape"),
        ("('y', (1, 2), object)", "BYTES"),
        ("('y', (2**30, 2**30))", "ValueError|MemoryError"),
    ],
)
async def test_a_place_that_cannot_be_is_the_models_error(groups: GroupMaker, call: str, complaint: str) -> None:
    source = f"""
    class Model:
        def load(self, ctx):
            self.ctx = ctx
        def infer(self, inputs):
            return {{"y": self.ctx.output{call}}}
    """
    group = await groups.start(source, outputs=Y)
    with pytest.raises(ModelError, match=complaint):
        await ask(group, column(1))


async def test_outside_infer_there_is_no_place(groups: GroupMaker) -> None:
    source = """
    class Model:
        def load(self, ctx):
            try:
                ctx.output("y", (1, 1))
            except RuntimeError as error:
                assert "inside infer" in str(error)
            else:
                raise AssertionError("a place without a batch")
        def infer(self, inputs):
            return {"y": inputs["x"]}
    """
    np.testing.assert_array_equal(await ask(await groups.start(source), column(1)), column(1))
