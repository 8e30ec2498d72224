"""`Model`, the base class of Python-engine models, and `ModelContext`, what a model is told about its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]
    Place = Callable[[str, tuple[int, ...], Any], NDArray[Any]]


@dataclass(slots=True)
class Lending:
    """What an engine lends to the model's code while it answers a batch."""

    place: Place | None = None
    """(output, shape, dtype or None) → where to write it."""


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a model may know when it loads. Also given to the builder function of a Torch model."""

    artifact_dir: Path
    """Directory of the fetched artifact, read-only. The entrypoint was imported from here."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """`engine.parameters` of the resource, as they are."""
    device: str = "cpu"
    """`cpu` or `cuda:N`; of a pod with several GPUs the worker sees its own alone, which is `cuda:0`."""
    gpu_fraction: float | None = None
    """Part of that GPU which is this worker's; None: all of it. Torch models are held to that part of its memory."""
    dtype: str | None = None
    """FP32, FP16, BF16, or None for the stored type."""
    threads: int = 1
    """Intra-op threads that this process may use."""
    name: str = ""
    """Name of the model as the resource gives it."""
    version: str = ""
    """Version of the model as the resource gives it."""
    lending: Lending = field(default_factory=Lending, repr=False, compare=False)
    """For engines."""

    def output(self, name: str, shape: Sequence[int], dtype: Any = None) -> NDArray[Any]:
        """An array to write output `name` into, in the memory that it is sent from: so it is never copied.

        During `infer` alone: fill it and return it under that name, or return something else and it is
        forgotten. Its content is undefined at first. `shape` is that of the whole output, rows included; `dtype` is the
        declared one unless given. Do not keep it: an array that outlives the call costs its model this way of writing.
        Raises RuntimeError outside the call, ValueError for a shape or dtype that cannot be.
        """
        if self.lending.place is None:
            raise RuntimeError("ctx.output() is for use inside infer")
        return self.lending.place(name, tuple(shape), dtype)


class Model:
    """A model in plain Python. Subclass it, and name the class as `engine.entrypoint`: `module:ClassName`.

    One object lives in each worker process and is used by one thread. An exception fails the batch with status 500 and
    the last lines of its traceback; mark the resource `idempotent` to have a bad row found and failed alone.
    A subclass may define `infer_batch(self, requests)` as well: it gets a list with one dictionary per request, in
    place of one dictionary of concatenated rows, and returns as many dictionaries in the same order.

    A subclass that defines `infer_stream(self, inputs)` answers requests for a stream: a generator that yields a
    dictionary of arrays for each chunk; declared outputs may come in any chunk, or in none. Inputs are its own.
    A sync generator is advanced on the one thread, in turn with those of other requests and with batches between, so a
    step should take milliseconds. An `async def` generator runs on the worker's event loop, many at once, and must not
    block it. Either is paused while the client has 256 KiB unread, and closed (`GeneratorExit`, or `CancelledError` at
    its `await`) when the client leaves or the time is up. With `infer_stream` alone, only streams are answered.
    """

    def load(self, ctx: ModelContext) -> None:
        """Reads weights and builds what `infer` needs. An exception here fails the load and is reported."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Answers one batch: arrays by input name, first dimension the rows of all requests in the batch.

        Input arrays are read-only and valid during the call alone; copy what must outlive it. Every returned array has
        the same number of rows, in the same order. BYTES tensors are object arrays of `bytes`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither infer nor infer_batch")

    def unload(self) -> None:
        """Called before the process ends in good order; not after a crash."""


def defines_infer(model: object) -> bool:
    """True where the model answers batches: its class has an `infer` of its own, or an `infer_batch`."""
    has_own = callable(getattr(model, "infer", None)) and getattr(type(model), "infer", None) is not Model.infer
    return has_own or defines_infer_batch(model)


def defines_infer_stream(model: object) -> bool:
    """True where the model's class has an `infer_stream`."""
    return callable(getattr(model, "infer_stream", None))


def defines_infer_batch(model: object) -> bool:
    """True where the model's class has an `infer_batch` of its own."""
    return callable(getattr(model, "infer_batch", None))
