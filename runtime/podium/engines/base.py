"""`Engine`, what a worker needs of a backend, and how an entrypoint is found in the artifact."""

import importlib
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from podium.errors import ModelError, PodiumError, clipped
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext
from podium_crds.assignment import Member


class LoadError(PodiumError):
    """The model cannot be loaded. The message is for its author."""


@dataclass(frozen=True, slots=True)
class EngineBatch:
    """What one forward gets: tensors with all rows, and how many rows each request has.

    `rows` is empty where the inputs have no common first dimension; there is one request then.
    """

    inputs: Mapping[str, Tensor]
    rows: tuple[int, ...]


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


def context_of(member: Member, artifact_dir: Path, device: str) -> ModelContext:
    """What the model's code is told."""
    return ModelContext(
        artifact_dir=artifact_dir,
        parameters=member.engine.parameters,
        device=device,
        dtype=member.engine.dtype,
        threads=member.engine.threads,
        name=member.name,
        version=member.version,
    )


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
    return ModelError(f"{during}: {user_error(error)}")
