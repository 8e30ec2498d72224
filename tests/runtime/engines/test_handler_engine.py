"""Handlers: rows of all requests as one list, lengths checked, and one bad item harms its own request alone."""

import asyncio
import itertools
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.worker.models import GroupMaker, ask

from podium.engines.base import Arrays, EngineBatch, LoadError, context_of
from podium.engines.handler_engine import HandlerEngine
from podium.errors import InvalidInput, ModelError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.tensors import DType, TensorSpec

NAMES = itertools.count()
FULL = """
    import numpy as np
    from podium import Handler, InvalidItem
    class Model(Handler):
        calls = []
        def preprocess(self, items):
            self.calls.append(len(items))
            for item in items:
                if item["x"] == 13:
                    raise InvalidItem("13 is no number for us")
                if item["x"] == 66:
                    raise ValueError("preprocess broke")
            return np.stack([item["x"] for item in items])
        def infer(self, batch):
            return batch * 2
        def postprocess(self, item):
            if item == 8:
                raise ValueError("four is right out")
            return {"y": float(item), "name": f"n{int(item)}"}
"""
OUTPUTS = (
    TensorSpec(name="y", dtype=DType.FP32, shape=(-1,)),
    TensorSpec(name="name", dtype=DType.BYTES, shape=(-1,)),
)


def an_engine(folder: Path, source: str, outputs: tuple[TensorSpec, ...] = ()) -> HandlerEngine:
    module = f"handler_model_{next(NAMES)}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    spec = EngineSpec(kind=EngineKind.HANDLER, entrypoint=f"{module}:Model")
    member = Member(name="m", load_hash="h", version="1", artifact=Artifact(), engine=spec)
    engine = HandlerEngine(spec.entrypoint, context_of(member, folder, "cpu"), outputs)
    engine.load()
    return engine


def a_batch(values: list[Any], rows: tuple[int, ...]) -> EngineBatch:
    return EngineBatch({"x": Tensor.from_array(np.array(values))}, rows)


def run(engine: HandlerEngine, values: list[Any], rows: tuple[int, ...]) -> Arrays:
    batch = a_batch(values, rows)
    answer = engine.infer(batch)
    assert not batch.failed
    return answer


def test_rows_of_all_requests_go_through_in_order(tmp_path: Path) -> None:
    answer = run(an_engine(tmp_path, FULL, OUTPUTS), [1, 2, 3], (1, 2))
    assert answer["y"].tolist() == [2, 4, 6]
    assert answer["y"].dtype == np.float32
    assert answer["name"].tolist() == ["n2", "n4", "n6"]


def test_a_bad_item_fails_its_own_request_alone(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, FULL, OUTPUTS)
    batch = a_batch([1, 13, 2, 66, 4, 3], (1, 2, 1, 1, 1))
    answer = engine.infer(batch)
    assert (set(batch.failed), batch.refused) == ({1, 2, 3}, {1})
    assert batch.failed[1] == "item 0: 13 is no number for us"
    assert "preprocess broke" in batch.failed[2]
    assert "four is right out" in batch.failed[3]
    assert (answer["y"].tolist(), answer["name"].tolist()) == ([2, 6], ["n2", "n6"])


def test_a_result_may_be_an_error(tmp_path: Path) -> None:
    source = """
    from podium import InvalidItem
    class Model:
        def infer(self, batch):
            return [InvalidItem("too dark") if item["x"] < 0 else {"y": item["x"]} for item in batch]
    """
    batch = a_batch([1, -1], (1, 1))
    assert an_engine(tmp_path, source).infer(batch)["y"].tolist() == [1]
    assert (batch.failed, batch.refused) == ({1: "too dark"}, {1})


def test_infer_may_return_a_dictionary_of_arrays(tmp_path: Path) -> None:
    source = "class Model:\n    def infer(self, batch):\n        return {'y': [item['x'] + 1 for item in batch]}\n"
    answer = run(an_engine(tmp_path, source), [1, 2], (1, 1))
    assert answer["y"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return batch[:-1]", "infer returned 1 results for 2 items"),
        ("return batch + batch", "infer returned 4 results for 2 items"),
        ("return {'y': [1]}", "infer returned 1 rows of 'y' for 2 items"),
        ("raise KeyError('lost')", "infer raised"),
        ("return None", "infer raised"),
        ("return [{'y': 1}, {'z': 1}]", "outputs \\['z'\\] and \\['y'\\] in one batch"),
        ("return [{'y': [1]}, {'y': [1, 2]}]", "pad them to one shape"),
    ],
)
def test_results_that_do_not_fit_the_items_are_the_models_error(tmp_path: Path, body: str, complaint: str) -> None:
    engine = an_engine(tmp_path, f"class Model:\n    def infer(self, batch):\n        {body}\n")
    with pytest.raises(ModelError, match=complaint):
        run(engine, [1, 2], (1, 1))


def test_a_result_that_is_no_dictionary_names_what_is_expected(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, "class Model:\n    def infer(self, batch):\n        return [1 for _ in batch]\n")
    batch = a_batch([1], (1,))
    engine.infer(batch)
    assert "expected a dictionary of values by output name" in batch.failed[0]


def test_text_keeps_its_last_zero_byte(tmp_path: Path) -> None:
    source = "class Model:\n    def infer(self, batch):\n        return [{'y': b'a\\0'} for _ in batch]\n"
    answer = run(an_engine(tmp_path, source), [1, 2], (2,))
    assert answer["y"].tolist() == [b"a\0", b"a\0"]


@pytest.mark.parametrize(
    ("source", "complaint"), [("class Model:\n    pass\n", "has no method infer"), ("Model = 3\n", "is int, expected")]
)
def test_a_class_that_is_no_handler_is_refused(tmp_path: Path, source: str, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        an_engine(tmp_path, source)


@pytest.mark.asyncio(loop_scope="module")
async def test_in_a_worker_each_request_gets_its_own_end(groups: GroupMaker) -> None:
    engine = {"kind": EngineKind.HANDLER}
    member = groups.member(engine=engine, outputs=OUTPUTS, batching={"max_delay_microseconds": 200_000})
    group = await WorkerGroup.start(member, groups.artifact(FULL), pod=groups.pod)
    groups.groups.append(group)
    values = [1, 13, 2, 4, 3]
    results = await asyncio.gather(*(ask(group, np.array([value])) for value in values), return_exceptions=True)
    for value, result in zip(values, results, strict=True):
        if value == 13:
            assert isinstance(result, InvalidInput)
            assert str(result) == "13 is no number for us"
        elif value == 4:
            assert isinstance(result, ModelError)
            assert "four is right out" in str(result)
        else:
            np.testing.assert_array_equal(result, [2 * value])
    alone = await asyncio.gather(ask(group, np.array([13])), return_exceptions=True)
    assert isinstance(alone[0], InvalidInput)
