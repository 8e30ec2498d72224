"""How the answers of `infer_batch` become one tensor each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.worker.conversation import a_model

from podium.engines.base import EngineBatch
from podium.engines.python_engine import PythonEngine
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext


class Joined:
    """One call of a model whose `infer_batch` answers as `answers` says, for requests of one and two rows."""

    def __init__(self, folder: Path, answers: str) -> None:
        source = f"""
            class Model:
                def infer_batch(self, requests):
                    a, b = (request["x"] for request in requests)
                    return {answers}
        """
        context = ModelContext(folder, {}, "cpu", None, 1, "m", "1")
        engine = PythonEngine(f"{a_model(folder, source)}:Model", context)
        engine.load()
        self.places: list[str] = []
        self.x = np.arange(3000, dtype=np.float32).reshape(3, 1000)
        batch = EngineBatch({"x": Tensor.from_array(self.x)}, (1, 2), place=self._place)
        self.y = engine.infer(batch)["y"]

    def _place(self, name: str, shape: Sequence[int], dtype: object) -> NDArray[np.float32]:
        self.places.append(name)
        return np.empty(shape, np.dtype(dtype))  # type: ignore[call-overload, no-any-return]

    @property
    def is_view(self) -> bool:
        """Of what the model was given."""
        return np.shares_memory(self.x, self.y)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("[{'y': a}, {'y': b}]", lambda x: x),
        ("[{'y': a.view('int32')}, {'y': b.view('int32')}]", lambda x: x.view("int32")),
        ("[{'y': a.reshape(1, 10, 100)}, {'y': b.reshape(2, 10, 100)}]", lambda x: x.reshape(3, 10, 100)),
    ],
)
def test_rows_that_follow_each_other_in_the_input_stay_there(tmp_path: Path, answers: str, expected: object) -> None:
    joined = Joined(tmp_path, answers)
    assert callable(expected)
    np.testing.assert_array_equal(joined.y, expected(joined.x))
    assert joined.is_view
    assert not joined.places


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("[{'y': b[1:]}, {'y': b}]", [2, 1, 2]),
        ("[{'y': b[:1]}, {'y': b}]", [1, 1, 2]),
        ("[{'y': a}, {'y': b[::-1]}]", [0, 2, 1]),
        ("[{'y': a}, {'y': b + 0}]", [0, 1, 2]),
        ("[{'y': a + 0}, {'y': b + 0}]", [0, 1, 2]),
        ("[{'y': a[:, ::2]}, {'y': b[:, ::2]}]", [0, 1, 2]),
    ],
)
def test_rows_that_do_not_are_joined_in_their_place(tmp_path: Path, answers: str, expected: list[int]) -> None:
    joined = Joined(tmp_path, answers)
    assert (joined.y[:, 0] // 1000).tolist() == expected
    assert not joined.is_view
    assert joined.places == ["y"]
