"""`model`: a model of a pipeline, declared where the pipeline is written. Nothing is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from podium.sdk.handler import Handler
from podium.sdk.model import Model
from podium.sdk.tracing import current
from podium.sdk.values import Fields

_ENGINE_BLOCKS = ("torch", "onnx", "python", "handler")


@dataclass(frozen=True, slots=True)
class Member:
    """A model that traced functions call. Make it with `model`."""

    name: str
    entry: Mapping[str, Any]
    """Its entry under spec.models, in wire names."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    """Inputs that may be left out."""
    step_name: str | None = None
    timeout_seconds: int | None = None
    retries: int = 0

    def __call__(self, *values: Any, **named: Any) -> Fields:
        """One step. Inputs by name; or one mapping of them; or values in the order of the declared inputs.

        Values are what other steps returned, what the client sends, or constants: the value of one row, the same for
        all. Raises NotTracing outside a traced function, TraceError for what a step cannot take.
        """
        return current(f"model {self.name} was called").call(self, values, named)

    def step(self, name: str | None = None, *, timeout_seconds: int | None = None, retries: int = 0) -> Member:
        """The same model, for a call with a name, a time limit, or retries of its own."""
        return replace(self, step_name=name, timeout_seconds=timeout_seconds, retries=retries)


def model(name: str, code: type[Model | Handler] | None = None, *, ref: str | None = None, **definition: Any) -> Member:
    """Declares a model of a pipeline.

    `code`: a subclass of Model or Handler. `ref`: an InferenceModel of the namespace in its place. Everything else is
    a field of a model as the resource has it, in snake_case or camelCase: `source="s3://…"`, `inputs=[…]`,
    `torch={"exportedProgram": "model.pt2"}`, `instances=2`, `batching={…}`. `parameters` reach `load`.
    Without a `source`, the files are those of the folder that the class is in.
    """
    if ref is not None:
        if code is not None or set(definition) - {"inputs", "outputs"}:
            raise TypeError(
                f"model {name}: ref names an InferenceModel, which has all else: remove the other arguments"
            )
        entry: dict[str, Any] = {"name": name, "modelRef": {"name": ref}}
        return Member(name, entry, _names(definition.get("inputs")), _names(definition.get("outputs")))
    inline = {_camel(key): value for key, value in definition.items() if value is not None}
    if code is not None:
        _of_class(name, code, inline)
    source = inline.get("source")
    if isinstance(source, str):
        inline["source"] = {"uri": source}
    if source is None:
        raise TypeError(
            f'model {name} has nothing to load: give a class, source="…" with an engine\'s block, or ref="…"'
        )
    blocks = [block for block in _ENGINE_BLOCKS if block in inline]
    if len(blocks) == 1:
        inline.setdefault("engine", blocks[0].capitalize())
    inputs = inline.get("inputs") or ()
    optional = frozenset(spec["name"] for spec in inputs if spec.get("optional"))
    return Member(name, {"name": name, "inline": inline}, _names(inputs), _names(inline.get("outputs")), optional)


def _of_class(name: str, code: object, inline: dict[str, Any]) -> None:
    if not (isinstance(code, type) and issubclass(code, Model | Handler)):
        raise TypeError(f"model {name}: expected a subclass of podium.Model or podium.Handler, got {code!r}")
    if code.__module__ == "__main__" or "." in code.__qualname__:
        raise TypeError(
            f"model {name}: class {code.__qualname__} cannot be imported by a worker: put it at the top level of a "
            "module of its own"
        )
    block = "handler" if issubclass(code, Handler) else "python"
    options = dict(inline.get(block, {}))
    options.setdefault("entrypoint", f"{code.__module__.rpartition('.')[2]}:{code.__qualname__}")
    for key in ("parameters", "threads"):
        if key in inline:
            options[key] = inline.pop(key)
    inline[block] = options
    inline.setdefault("source", {"uri": Path(inspect.getfile(code)).resolve().parent.as_uri()})


def _names(specs: Sequence[Mapping[str, Any]] | None) -> tuple[str, ...]:
    return tuple(spec["name"] for spec in specs or ())


def _camel(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(word.capitalize() for word in others)
