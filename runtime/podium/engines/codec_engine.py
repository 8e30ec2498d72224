"""The model's own codecs: found in its code, and run in a worker that holds no model.

One job is one batch of one request. Inputs and outputs are named below; no tensor of a model has such a name.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.engines.base import Arrays, EngineBatch, LoadError, resolve_entrypoint
from podium.errors import clipped
from podium.ipc.codec_job import BODY, ERROR, JOB, TYPE, Problem
from podium.ipc.protocol import MAX_INLINE_BYTES, OwnForms
from podium.ipc.tensor import Tensor
from podium.sdk.codec import MARK, CodecMark, Direction
from podium_crds.assignment import EngineSpec

CODECS_MODULE = "podium_codecs"
"""Looked into beside the entrypoint's module: engines that run a file have no other."""
MAX_CODECS = 64

Codecs = Mapping[CodecMark, Callable[..., Any]]


def codecs_of(engine: EngineSpec, artifact_dir: Path) -> Codecs:
    """Every marked function of the model's code. Raises LoadError, and what the code raises when it is imported."""
    found: dict[CodecMark, Callable[..., Any]] = {}
    for module in _modules(engine, artifact_dir):
        for value in vars(module).values():
            marks = getattr(value, MARK, ()) if callable(value) else ()
            for mark in marks if isinstance(marks, tuple) else ():
                if isinstance(mark, CodecMark) and found.setdefault(mark, value) is not value:
                    raise LoadError(
                        f"two functions {mark.direction} {mark.media_type}: {_named(found[mark])} and {_named(value)}; "
                        "leave one of them"
                    )
    if len(found) > MAX_CODECS:
        raise LoadError(f"the model has {len(found)} codecs; at most {MAX_CODECS} are possible")
    return found


def forms_of(codecs: Codecs) -> OwnForms:
    """The content types that they read and write."""
    return OwnForms(
        tuple(sorted(mark.media_type for mark in codecs if mark.direction is Direction.DECODE)),
        tuple(sorted(mark.media_type for mark in codecs if mark.direction is Direction.ENCODE)),
    )


class CodecEngine:
    """Runs codecs. Nothing that they do wrong raises: it is told as a Problem."""

    def __init__(self, engine: EngineSpec, artifact_dir: Path) -> None:
        self._engine = engine
        self._artifact_dir = artifact_dir
        self._codecs: Codecs = {}

    def load(self) -> None:
        """Imports the model's code. Raises as `codecs_of`."""
        self._codecs = codecs_of(self._engine, self._artifact_dir)

    def warm_up(self) -> None:
        """Nothing: a codec has no first body."""

    def unload(self) -> None:
        """Nothing."""

    def infer(self, batch: EngineBatch) -> Arrays:
        """One job. Inputs are borrowed until it returns."""
        direction, content_type = Direction(_text(batch.inputs[JOB])), _text(batch.inputs[TYPE])
        mark = CodecMark(direction, content_type.partition(";")[0].strip().lower())
        function = self._codecs.get(mark)
        if function is None:
            return _problem(Problem.BROKEN, f"the model's code has no codec that {direction}s {mark.media_type}")
        who = f"the codec {_named(function)}"
        try:
            if direction is Direction.DECODE:
                return _decoded(function(bytes(batch.inputs[BODY].data), content_type), who)
            arrays = {name: tensor.array() for name, tensor in batch.inputs.items() if name not in (JOB, TYPE)}
            return _encoded(function(arrays), who)
        except MemoryError:
            return _problem(Problem.TOO_LARGE, f"{who} ran out of the memory that it may use")
        except Exception as error:  # noqa: BLE001 - the model's own code
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            kind = Problem.REFUSED if direction is Direction.DECODE else Problem.BROKEN
            return _problem(kind, f"{who} could not {direction} {mark.media_type}: {said}")


def _decoded(answer: object, who: str) -> Arrays:
    if not isinstance(answer, Mapping) or not answer:
        return _problem(Problem.BROKEN, f"{who} returned {type(answer).__name__}, expected arrays by input name")
    arrays: dict[str, NDArray[Any]] = {}
    size = 0
    for name, value in answer.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            return _problem(Problem.BROKEN, f"{who} returned {type(value).__name__} as {name!r}, expected an array")
        try:
            tensor = Tensor.from_array(value)
        except Exception as error:  # noqa: BLE001 - objects in arrays may be anything
            return _problem(Problem.BROKEN, f"{who} returned {name!r}: {error}")
        arrays[name] = tensor.array()
        size += tensor.nbytes
    if size > MAX_INLINE_BYTES:
        return _problem(Problem.TOO_LARGE, f"{who} read {size} bytes of tensors; expected at most {MAX_INLINE_BYTES}")
    return arrays


def _encoded(answer: object, who: str) -> Arrays:
    if isinstance(answer, str):
        answer = answer.encode()
    if not isinstance(answer, (bytes, bytearray, memoryview)):
        return _problem(Problem.BROKEN, f"{who} returned {type(answer).__name__}, expected bytes")
    body = np.frombuffer(answer, np.uint8)
    if body.nbytes > MAX_INLINE_BYTES:
        return _problem(Problem.BROKEN, f"{who} wrote {body.nbytes} bytes; at most {MAX_INLINE_BYTES} are possible")
    return {BODY: body}


def _problem(kind: Problem, message: str) -> Arrays:
    return {ERROR: np.array([kind.value.encode(), clipped(message).encode(errors="replace")], dtype=object)}


def _text(tensor: Tensor) -> str:
    element: bytes = tensor.array().reshape(-1)[0]
    return element.decode("latin-1")


def _modules(engine: EngineSpec, artifact_dir: Path) -> list[Any]:
    modules = []
    if engine.entrypoint:
        resolve_entrypoint(engine.entrypoint, artifact_dir)
        modules.append(sys.modules[engine.entrypoint.partition(":")[0]])
    if (artifact_dir / f"{CODECS_MODULE}.py").is_file():
        root = str(artifact_dir.resolve())
        sys.dont_write_bytecode = True
        if root not in sys.path:
            sys.path.insert(0, root)
            importlib.invalidate_caches()
        modules.append(importlib.import_module(CODECS_MODULE))
    return modules


def _named(function: object) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
