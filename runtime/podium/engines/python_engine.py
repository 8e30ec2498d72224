"""The Python engine: a class with `load`, `infer` or `infer_batch`, `infer_stream`, `unload`. See podium.sdk.model."""

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.engines.base import (
    Arrays,
    EngineBatch,
    LoadError,
    Place,
    StreamRequest,
    lent_to,
    resolve_entrypoint,
    user_error,
    wrapped,
)
from podium.errors import ModelError
from podium.sdk.model import ModelContext, defines_infer, defines_infer_batch, defines_infer_stream

NUMBERS = "biuf"
"""Kinds of arrays whose elements lie in the array itself."""


class PythonEngine:
    """Runs one object of the user's class."""

    def __init__(self, entrypoint: str, context: ModelContext) -> None:
        self._entrypoint = entrypoint
        self._context = context
        self._model: Any = None

    @property
    def infers(self) -> bool:
        """Whether the class answers batches."""
        return defines_infer(self._model)

    @property
    def streams(self) -> bool:
        """Whether the class answers streams."""
        return defines_infer_stream(self._model)

    def load(self) -> None:
        """Imports the class, makes an object, calls its `load`. Raises LoadError or what the user's code raises."""
        factory = resolve_entrypoint(self._entrypoint, self._context.artifact_dir)
        if not callable(factory):
            raise LoadError(f"entrypoint {self._entrypoint!r} is {type(factory).__name__}, expected a class")
        self._model = factory()
        if not (self.infers or self.streams):
            raise LoadError(f"{type(self._model).__name__} has no method infer, infer_batch or infer_stream")
        if callable(load := getattr(self._model, "load", None)):
            load(self._context)

    def warm_up(self) -> None:
        """Calls the model's own `warm_up`, where it has one."""
        if callable(warm_up := getattr(self._model, "warm_up", None)):
            warm_up()

    def infer(self, batch: EngineBatch) -> Arrays:
        """One call of `infer_batch` where the class has it, else of `infer`. Raises ModelError."""
        inputs = {name: tensor.array() for name, tensor in batch.inputs.items()}
        try:
            if defines_infer_batch(self._model):
                return self._infer_batch(inputs, batch)
            with lent_to(self._context, batch):
                return _as_arrays(self._model.infer(inputs))
        except ModelError:
            raise
        except Exception as error:
            raise wrapped(error, "infer raised") from error

    def stream(self, request: StreamRequest) -> Iterator[Arrays] | AsyncIterator[Arrays]:
        """One call of `infer_stream`. Raises ModelError for no generator, and what the user's code raises."""
        answer = self._model.infer_stream({name: tensor.array() for name, tensor in request.inputs.items()})
        if isinstance(answer, AsyncIterable):
            return _async_chunks(answer)
        if isinstance(answer, Iterable) and not isinstance(answer, (Mapping, str, bytes)):
            return _chunks(answer)
        if inspect.iscoroutine(answer):
            answer.close()
        raise ModelError(f"infer_stream returned {type(answer).__name__}, expected a generator: yield each chunk")

    def unload(self) -> None:
        """Calls the model's own `unload`, where it has one."""
        if callable(unload := getattr(self._model, "unload", None)):
            unload()

    def _infer_batch(self, inputs: dict[str, NDArray[Any]], batch: EngineBatch) -> Arrays:
        requests = _per_request(inputs, batch.rows)
        answers = self._model.infer_batch(requests)
        if not isinstance(answers, Sequence) or len(answers) != len(requests):
            count = len(answers) if isinstance(answers, Sequence) else type(answers).__name__
            raise ModelError(f"infer_batch returned {count}, expected a list of {len(requests)} dictionaries")
        batch.failed.update(
            (index, user_error(answer)) for index, answer in enumerate(answers) if isinstance(answer, Exception)
        )
        arrays = [(index, _as_arrays(answer)) for index, answer in enumerate(answers) if index not in batch.failed]
        if not arrays:
            return {}
        first = arrays[0][1]
        if len(requests) == 1:
            return first
        for index, answer in arrays:
            _check_rows(answer, batch.rows[index])
            if answer.keys() != first.keys():
                raise ModelError(f"infer_batch returned outputs {sorted(answer)} and {sorted(first)}")
        given = [array for array in inputs.values() if array.dtype.kind in NUMBERS]
        return {name: _joined(name, [answer[name] for _, answer in arrays], given, batch.place) for name in first}


def _joined(
    name: str, parts: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]], place: Place | None
) -> NDArray[Any]:
    """All rows of one output, as they lie in an input or joined where they are sent from; text and unequal parts as
    numpy sees fit."""
    first = parts[0]
    alike = all(part.dtype == first.dtype and part.shape[1:] == first.shape[1:] for part in parts)
    if not alike or first.dtype.kind not in NUMBERS:
        return np.concatenate(parts)
    if (whole := _lying_together(parts, given)) is not None:
        return whole
    if place is None:
        return np.concatenate(parts)
    out = place(name, (sum(len(part) for part in parts), *first.shape[1:]), first.dtype)
    return np.concatenate(parts, out=out)


def _lying_together(parts: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """The parts as one view of an input, where every request's rows were passed on and follow each other there."""
    start = end = _address(parts[0])
    for part in parts:
        if not part.size or not part.flags.c_contiguous or _address(part) != end:
            return None
        end += part.nbytes
    for array in given:
        first = start - _address(array)
        if first >= 0 and first + (end - start) <= array.nbytes:
            flat = array.reshape(-1).view(np.uint8)[first : first + (end - start)]
            return flat.view(parts[0].dtype).reshape(-1, *parts[0].shape[1:])
    return None


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _per_request(inputs: dict[str, NDArray[Any]], rows: tuple[int, ...]) -> list[dict[str, NDArray[Any]]]:
    if len(rows) <= 1:
        return [inputs]
    bounds = np.cumsum((0, *rows)).tolist()
    return [{name: array[start:end] for name, array in inputs.items()} for start, end in pairwise(bounds)]


def _check_rows(answer: Arrays, rows: int) -> None:
    for name, array in answer.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ModelError(f"output {name!r} of one request has shape {list(array.shape)}, expected {rows} rows")


def _chunks(items: Iterable[object]) -> Generator[Arrays]:
    try:
        for item in items:
            yield _as_arrays(item, "infer_stream yielded")
    finally:
        if callable(close := getattr(items, "close", None)):
            close()


async def _async_chunks(items: AsyncIterable[object]) -> AsyncGenerator[Arrays]:
    try:
        async for item in items:
            yield _as_arrays(item, "infer_stream yielded")
    finally:
        if callable(aclose := getattr(items, "aclose", None)):
            await aclose()


def _as_arrays(answer: object, said: str = "infer returned") -> Arrays:
    if not isinstance(answer, Mapping):
        raise ModelError(f"{said} {type(answer).__name__}, expected a dictionary of arrays by output name")
    return {str(name): np.asarray(value) for name, value in answer.items()}
