"""What stands for a tensor while a function is traced: it knows where it comes from, and refuses the rest of Python.

A value is a list of sources, of which the first that ran counts; all but the join of branches have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from podium.sdk.errors import TraceError

if TYPE_CHECKING:
    from podium.sdk.tracing import Tracing

Scalar = str | int | bool

_ARITHMETIC = (
    *(
        "add",
        "radd",
        "sub",
        "rsub",
        "mul",
        "rmul",
        "truediv",
        "rtruediv",
        "floordiv",
        "rfloordiv",
        "mod",
        "rmod",
        "pow",
    ),
    *("rpow", "matmul", "rmatmul", "neg", "pos", "abs", "invert", "and", "rand", "or", "ror", "xor", "rxor"),
    *("lshift", "rlshift", "rshift", "rrshift", "round"),
)
_ORDER = ("lt", "le", "gt", "ge")
_NUMBER = ("int", "float", "index", "complex", "array")


class Refusing:
    """Base of everything that stands for values: whatever needs the value itself says what to write instead."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TraceError(
            f"{self!r} is not known before a request is there, so `if`, `and`, `or`, `not` and `while` cannot look "
            "at it: write cond(value, lambda: …, lambda: …)"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TraceError(
            f"{self!r} cannot be looped over or unpacked while tracing: call the model once for all rows, or take "
            'values by name, as value["name"]'
        )

    def __len__(self) -> NoReturn:
        raise TraceError(f"the length of {self!r} is not known while tracing: let a model compute it")

    def __contains__(self, item: object) -> NoReturn:
        raise TraceError(f"what {self!r} holds is not known while tracing: let a model look, and use cond")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise TraceError(f"{self!r} cannot be changed: hand the new value on to the next model by name")

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise TraceError(f"{self!r} is a value and no model: declare models with model(name, …) and call those")

    def __str__(self) -> NoReturn:
        raise TraceError(f"{self!r} has no text while tracing: build strings in a model")

    def __format__(self, spec: str) -> NoReturn:
        raise TraceError(f"{self!r} has no text while tracing: build strings in a model")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TraceError(f'{self!r} has no attribute {name}: outputs are taken by name, as value["{name}"]')


def _refuse(operation: str, advice: str) -> Callable[..., NoReturn]:
    def refused(self: Refusing, *_: object) -> NoReturn:
        raise TraceError(f"{operation} of {self!r} cannot be part of a graph: {advice}")

    return refused


for _name in _ARITHMETIC:
    setattr(Refusing, f"__{_name}__", _refuse("arithmetic", "compute it in a model, and call that model"))
for _name in _ORDER:
    setattr(Refusing, f"__{_name}__", _refuse("order", "let a model return true or false, and give that to cond"))
for _name in _NUMBER:
    setattr(Refusing, f"__{_name}__", _refuse("the number", "hand the value on to a model as it is"))


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison that `cond` can decide by."""

    value: Value
    equals: bool
    constant: Scalar

    def __bool__(self) -> NoReturn:
        raise TraceError(
            f"a comparison with {self.value!r} is not known before a request is there: give it to cond(…); for two "
            "comparisons, put one cond into the branch of the other"
        )


class Value(Refusing):
    """One tensor: of the request, or of a step, or of whichever branch ran."""

    __slots__ = ("sources", "tracing")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tracing: Tracing, sources: Sequence[str]) -> None:
        self.tracing = tracing
        self.sources = tuple(sources)

    def __repr__(self) -> str:
        return " or ".join(self.sources)

    def __getitem__(self, key: object) -> NoReturn:
        raise TraceError(f"{self!r} is one tensor and has no fields: let a model take it apart")

    def __eq__(self, other: object) -> Any:
        return Condition(self, equals=True, constant=self._comparable(other))

    def __ne__(self, other: object) -> Any:
        return Condition(self, equals=False, constant=self._comparable(other))

    def _comparable(self, other: object) -> Scalar:
        if isinstance(other, str | int):
            return other
        raise TraceError(
            f"{self!r} can be compared with a string, an integer, True or False, got {type(other).__name__}: let a "
            "model compare, and give what it returns to cond"
        )


class Fields(Refusing):
    """Several tensors by name: what a step returns, what the client sends, or the same of whichever branch ran."""

    __slots__ = ("_find", "known", "name")

    def __init__(self, name: str, known: Sequence[str], find: Callable[[str], Value]) -> None:
        self.name = name
        self.known = tuple(known)
        """Names in order; empty where they are not declared."""
        self._find = find

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, key: object) -> Value:
        if not isinstance(key, str):
            raise TypeError(f"values of {self.name} are taken by name, as a string, got {type(key).__name__}")
        if self.known and key not in self.known:
            raise TraceError(f"{self.name} has no value {key!r}: write one of {', '.join(self.known)}")
        return self._find(key)

    def keys(self) -> Sequence[str]:
        """Declared names, for `**value`. Raises TraceError where none are."""
        if not self.known:
            raise TraceError(f"the names of {self.name} are not declared: take its values by name, or declare them")
        return self.known

    def only(self) -> Value:
        """The one value there is. Raises TraceError unless exactly one is declared."""
        if len(self.known) != 1:
            listed = f"one of {', '.join(self.known)}" if self.known else "outputs=[…] where the model is declared"
            raise TraceError(
                f'{self.name} stands for several values, and one is expected: write value["name"], {listed}'
            )
        return self[self.known[0]]


class Parameter(Fields):
    """A parameter of the traced function: the request itself, indexed by name, or the one tensor of that name."""

    __slots__ = ("used_as",)

    def __init__(self, tracing: Tracing, name: str, *, alone: bool) -> None:
        self.used_as = "" if alone else "tensor"
        super().__init__(name, (), lambda key: Value(tracing, [f"request.{key}"]))

    def __getitem__(self, key: object) -> Value:
        if self.used_as == "tensor":
            raise TraceError(
                f'{self.name} is one tensor of the request: take values by name, as request["{key}"], from a function '
                "with one parameter, or give the function one parameter for each"
            )
        self.used_as = "request"
        return super().__getitem__(key)

    def only(self) -> Value:
        """The tensor of the request that is called like the parameter."""
        if self.used_as == "request":
            raise TraceError(f'{self.name} is the request, whose values are taken by name: write {self.name}["…"]')
        self.used_as = "tensor"
        return self._find(self.name)

    def __eq__(self, other: object) -> Any:
        return self.only() == other

    def __ne__(self, other: object) -> Any:
        return self.only() != other

    __hash__ = None  # type: ignore[assignment]


def as_value(item: object) -> Value | None:
    """The tensor that `item` stands for; None for an ordinary Python object."""
    if isinstance(item, Fields):
        return item.only()
    return item if isinstance(item, Value) else None


Result = Mapping[str, Any] | tuple[Any, ...] | list[Any] | Value | Fields | None
"""What a traced function or a branch may return."""
