"""The Handler engine: rows of all requests one by one, as one batch, and one by one again. See podium.sdk.handler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.engines.base import (
    Arrays,
    EngineBatch,
    LoadError,
    resolve_entrypoint,
    user_error,
    wrapped,
)
from podium.errors import ModelError
from podium.ipc.tensor import NUMPY_DTYPES
from podium.sdk.handler import InvalidItem
from podium.sdk.model import ModelContext
from podium_crds.tensors import DType, TensorSpec

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one row has no answer. `refused`: its client's doing."""

    message: str
    refused: bool = False


class HandlerEngine:
    """Runs one object of the user's class. `preprocess` and `postprocess` may be missing."""

    def __init__(self, entrypoint: str, context: ModelContext, outputs: tuple[TensorSpec, ...]) -> None:
        self._entrypoint = entrypoint
        self._context = context
        self._dtypes = {spec.name: spec.dtype for spec in outputs}
        self._handler: Any = None

    def load(self) -> None:
        """Imports the class, makes an object, calls its `load`. Raises LoadError or what the user's code raises."""
        factory = resolve_entrypoint(self._entrypoint, self._context.artifact_dir)
        if not callable(factory):
            raise LoadError(f"entrypoint {self._entrypoint!r} is {type(factory).__name__}, expected a class")
        self._handler = factory()
        if not callable(getattr(self._handler, "infer", None)):
            raise LoadError(f"{type(self._handler).__name__} has no method infer")
        if callable(load := getattr(self._handler, "load", None)):
            load(self._context)

    def warm_up(self) -> None:
        """Calls the handler's own `warm_up`, where it has one."""
        if callable(warm_up := getattr(self._handler, "warm_up", None)):
            warm_up()

    def infer(self, batch: EngineBatch) -> Arrays:
        """The three steps. Requests whose items fail before or after `infer` fail alone. Raises ModelError."""
        if not batch.rows:
            _fail(batch, 0, Fault("the inputs of a handler need a common first dimension", refused=True))
            return {}
        inputs = {name: tensor.array() for name, tensor in batch.inputs.items()}
        rows = [{name: array[row] for name, array in inputs.items()} for row in range(sum(batch.rows))]
        faults: dict[int, Fault] = {}
        answers: dict[int, Row] = {}
        if rows:
            good, prepared = self._prepared(rows, faults)
            for row, result in zip(good, self._results(prepared, len(good)), strict=True):
                self._finish(row, result, answers, faults)
        kept: list[Row] = []
        for request, (start, end) in enumerate(pairwise(np.cumsum((0, *batch.rows)).tolist())):
            bad = next((row for row in range(start, end) if row in faults), None)
            if bad is None:
                kept += (answers[row] for row in range(start, end))
            else:
                which = f"item {bad - start}: " if end - start > 1 else ""
                _fail(batch, request, Fault(which + faults[bad].message, faults[bad].refused))
        return _stacked(kept, self._dtypes)

    def unload(self) -> None:
        """Calls the handler's own `unload`, where it has one."""
        if callable(unload := getattr(self._handler, "unload", None)):
            unload()

    def _prepared(self, rows: list[Row], faults: dict[int, Fault]) -> tuple[list[int], Any]:
        """Rows that `preprocess` took, and what it made of them; the others are in `faults`."""
        preprocess = getattr(self._handler, "preprocess", None)
        everything = list(range(len(rows)))
        if preprocess is None:
            return everything, rows
        try:
            return everything, preprocess(rows)
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            if len(rows) == 1:
                faults[0] = _fault(error, "preprocess")
                return [], None
        for index, row in enumerate(rows):
            try:
                preprocess([row])
            except Exception as error:  # noqa: BLE001
                faults[index] = _fault(error, "preprocess")
        good = [index for index in everything if index not in faults]
        try:
            return good, preprocess([rows[index] for index in good]) if good else None
        except Exception as error:
            raise wrapped(error, "preprocess raised for items that it takes one by one") from error

    def _results(self, prepared: Any, count: int) -> Sequence[Any]:
        if not count:
            return ()
        try:
            results = self._handler.infer(prepared)
            if isinstance(results, Mapping):
                results = _rows_of(results, count)
            results = list(results)
        except ModelError:
            raise
        except Exception as error:
            raise wrapped(error, "infer raised") from error
        if len(results) != count:
            raise ModelError(f"infer returned {len(results)} results for {count} items, expected one for each")
        return results

    def _finish(self, row: int, result: Any, answers: dict[int, Row], faults: dict[int, Fault]) -> None:
        try:
            if isinstance(result, Exception):
                raise result  # its verdict on this item, told like one of postprocess
            postprocess = getattr(self._handler, "postprocess", None)
            answer = result if postprocess is None else postprocess(result)
            if not isinstance(answer, Mapping):
                raise ModelError(
                    f"postprocess returned {type(answer).__name__}, expected a dictionary of values by output name"
                )
            answers[row] = {str(name): as_array(value, self._dtypes.get(name)) for name, value in answer.items()}
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            faults[row] = _fault(error, "postprocess")


def as_array(value: Any, declared: DType | None) -> NDArray[Any]:
    """An array of one item's value. Plain Python values take the declared type where that loses no kind of number."""
    if isinstance(value, (bytes, str)):
        cell = np.empty((), dtype=object)
        cell[()] = value
        return cell
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        return np.asarray(value, dtype=object)
    wanted = NUMPY_DTYPES.get(declared) if declared else None
    if (
        wanted is None
        or isinstance(value, (np.ndarray, np.generic))
        or not np.can_cast(array.dtype, wanted, "same_kind")
    ):
        return array
    return array.astype(wanted)


def _fail(batch: EngineBatch, request: int, fault: Fault) -> None:
    batch.failed[request] = fault.message
    if fault.refused:
        batch.refused.add(request)


def _fault(error: Exception, step: str) -> Fault:
    if isinstance(error, InvalidItem):
        return Fault(str(error) or "the item is invalid", refused=True)
    return Fault(str(error) if isinstance(error, ModelError) else f"{step} raised: {user_error(error)}")


def _rows_of(results: Mapping[str, Any], count: int) -> list[Row]:
    for name, values in results.items():
        if len(values) != count:
            raise ModelError(f"infer returned {len(values)} rows of {name!r} for {count} items, expected one for each")
    return [{name: values[row] for name, values in results.items()} for row in range(count)]


def _stacked(answers: Sequence[Row], dtypes: Mapping[str, DType]) -> dict[str, NDArray[Any]]:
    """One array per output. Raises ModelError where the answers do not agree in names or shapes."""
    if not answers:
        return {name: np.empty((0,), NUMPY_DTYPES.get(dtype, object)) for name, dtype in dtypes.items()}
    first = answers[0]
    for answer in answers:
        if answer.keys() != first.keys():
            raise ModelError(f"postprocess returned outputs {sorted(answer)} and {sorted(first)} in one batch")
    for name in first:
        shapes = {answer[name].shape for answer in answers}
        if len(shapes) > 1:
            several = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
            raise ModelError(f"output {name!r} has shapes {several} in one batch; pad them to one shape")
    return {name: np.stack([answer[name] for answer in answers]) for name in first}
