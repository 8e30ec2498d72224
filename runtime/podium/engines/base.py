"""What a worker needs of a backend, and how an entrypoint is found in the artifact.

Three kinds. `Engine` answers batches. `StreamingEngine` is an Engine that may answer streams as well, or streams alone.
`AsyncEngine` lives on the worker's event loop and answers streams alone, many at once (vLLM).
"""

import importlib
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from podium.errors import ModelError, ModelOutOfMemory, PodiumError, clipped
from podium.ipc.llm_stats import LlmStats
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext
from podium_crds.assignment import Member

Arrays = Mapping[str, NDArray[Any]]
"""Outputs by name. BYTES outputs are object arrays of `bytes` or `str`."""


Place = Callable[[str, tuple[int, ...], Any], NDArray[Any]]
"""(output, shape, dtype or None for the declared one) → a writable array in the place that the output is sent from.
Raises ValueError."""


class LoadError(PodiumError):
    """The model cannot be loaded. The message is for its author."""


class ContractLoadError(LoadError):
    """What was loaded is not what the resource declares. The message names both."""


@dataclass(frozen=True, slots=True)
class EngineBatch:
    """What one forward gets: tensors with all rows, and how many rows each request has.

    `rows` is empty where the inputs have no common first dimension; there is one request then.
    """

    inputs: Mapping[str, Tensor]
    rows: tuple[int, ...]
    failed: dict[int, str] = field(default_factory=dict)
    """Filled by the engine: index of a request → why it alone failed. The outputs then hold the others' rows only."""
    refused: set[int] = field(default_factory=set)
    """Of those in `failed`: requests that are wrong themselves, which is for their clients to hear."""

    place: Place | None = None
    """Lent to the model's code as `ctx.output`."""

    @property
    def good_rows(self) -> int:
        """Rows of all requests that did not fail by themselves."""
        return sum(rows for index, rows in enumerate(self.rows) if index not in self.failed)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One request that is answered in chunks. The inputs are its own: they may be kept as long as the stream runs."""

    request_id: str
    """As the client sees it; not unique."""
    inputs: Mapping[str, Tensor]


class Engine(Protocol):
    """One loaded model. Called by one thread, in this order."""

    def load(self) -> None:
        """Reads code and weights. Whatever it raises fails the load."""

    def warm_up(self) -> None:
        """Does once what the first forward would otherwise pay for."""

    def infer(self, batch: EngineBatch) -> Mapping[str, NDArray[Any]]:
        """Outputs by name, rows in the order of the batch. Raises ModelError; inputs are borrowed until it returns."""

    def unload(self) -> None:
        """Gives back what the process end would not."""


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An Engine that may answer streams. Which it does is known once it is loaded."""

    @property
    def infers(self) -> bool:
        """Whether `infer` may be called."""

    @property
    def streams(self) -> bool:
        """Whether `stream` may be called."""

    def stream(self, request: StreamRequest) -> Iterator[Arrays] | AsyncIterator[Arrays]:
        """Begins to answer; each item is one chunk. Called on the worker's thread, between the steps of others.

        A sync iterator: the worker takes one item of each open stream in turn, on its one thread, with batches in
        between; an item should take milliseconds. An async iterator: a task of the worker's event loop drives it, many
        at once; it must not block. Either is closed (`close`, `aclose`) when the client leaves, the time is up or the
        worker stops; it is not advanced while the client has unread bytes beyond the stream's window. Raises ModelError
        for the model's fault, InvalidInput for a request that it cannot take (422 to the client); anything else counts
        as the model's fault.
        """


@runtime_checkable
class AsyncEngine(Protocol):
    """One loaded model that lives on the worker's event loop, which runs nothing else. Called in this order."""

    slow_reader_timeout_s: float | None
    """A stream without credit for so long is closed, and its client told `client_too_slow`: for engines that go on
    computing while nobody reads. None: it just pauses."""

    async def load_async(self) -> None:
        """Reads weights. Whatever it raises fails the load."""

    async def warm_up_async(self) -> None:
        """Does once what the first request would otherwise pay for."""

    def stream(self, request: StreamRequest) -> AsyncIterator[Arrays]:
        """As StreamingEngine.stream, async. `aclose` of the iterator must abort the request in the engine."""

    async def until_broken(self) -> str:
        """Returns, in words, why no request can be answered any more; never returns while all is well.

        The worker exits then: its streams end as after any death of a worker, and it is restarted.
        """

    async def unload_async(self) -> None:
        """Ends what the process end would not: children above all. All streams are closed before."""


@runtime_checkable
class Measured(Protocol):
    """An engine that knows more of its work than the worker sees. Any kind of engine may."""

    def stats(self) -> LlmStats:
        """What it measured since its load. Cheap: asked twice a second."""


def context_of(member: Member, artifact_dir: Path, device: str) -> ModelContext:
    """What the model's code is told."""
    return ModelContext(
        artifact_dir=artifact_dir,
        parameters=member.engine.parameters,
        device=device,
        gpu_fraction=member.gpu_fraction if device.startswith("cuda") else None,
        dtype=member.engine.dtype,
        threads=member.engine.threads,
        name=member.name,
        version=member.version,
    )


@contextmanager
def lent_to(context: ModelContext, batch: EngineBatch) -> Iterator[None]:
    """Inside, the model's code has what the batch lends."""
    context.lending.place = batch.place
    try:
        yield
    finally:
        context.lending.place = None


def resolve_entrypoint(entrypoint: str, artifact_dir: Path) -> Any:
    """The attribute that `module:attribute` names, from a module inside `artifact_dir` and nowhere else.

    The directory is put first on the import path, so that the module finds its neighbours. Raises LoadError.
    """
    module_name, _, attribute = entrypoint.partition(":")
    if not module_name or not attribute:
        raise LoadError(f"entrypoint {entrypoint!r}: expected module:attribute")
    root = artifact_dir.resolve()
    sys.dont_write_bytecode = True
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
    path = root.joinpath(*module_name.split("."))
    if not (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
        raise LoadError(f"entrypoint {entrypoint!r}: the artifact has no module {module_name!r}{_python_files(root)}")
    module = importlib.import_module(module_name)
    origin = getattr(module, "__file__", None)
    if origin is None or root not in Path(origin).resolve().parents:
        raise LoadError(
            f"entrypoint {entrypoint!r}: another module {module_name!r} is loaded already, from outside the artifact"
        )
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise LoadError(f"entrypoint {entrypoint!r}: module {module_name!r} has no attribute {attribute!r}") from None


def _python_files(root: Path) -> str:
    names = sorted(path.name for path in root.glob("*.py"))[:8]
    return f"; it has {', '.join(names)}" if names else "; it has no .py file at its top"


def user_error(error: BaseException) -> str:
    """The last lines of a traceback, at most 1 KiB: what the model's author needs first."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-6)
    return clipped("".join(lines).strip())


def wrapped(error: BaseException, during: str) -> ModelError:
    """A ModelError that says where the model's own code failed."""
    kind = ModelOutOfMemory if is_out_of_memory(error) else ModelError
    return kind(f"{during}: {user_error(error)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once might have succeeded: MemoryError, and what device libraries raise in its place."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
