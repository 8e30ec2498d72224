"""One trace: the steps that a function has asked for so far, and how values of branches come together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from podium.sdk.errors import NotTracing, TraceError
from podium.sdk.values import Condition, Fields, Parameter, Value, as_value

if TYPE_CHECKING:
    from podium.sdk.members import Member

Test = tuple[str, bool, type, str | int | bool]
"""Source, whether it must equal the value or must not, and the value with its type (True is no 1)."""
MAX_ALTERNATIVES = 8
_TRACING: ContextVar[Tracing | None] = ContextVar("podium_tracing", default=None)


def current(what: str) -> Tracing:
    """The trace that this code runs in. Raises NotTracing, beginning with `what` happened, where there is none."""
    tracing = _TRACING.get()
    if tracing is None:
        raise NotTracing(
            f"{what} outside a traced function: models of a pipeline run where it is served. Call it from a function "
            "that is given to trace(…) or to `podium trace module:function`"
        )
    return tracing


@dataclass(slots=True)
class Tracing:
    """Collects. One function, one thread."""

    members: dict[str, Member] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries under spec.steps by name, in wire names."""
    _branch: tuple[Test, ...] = ()
    """What holds in the branch that is being traced."""
    _guards: dict[str, frozenset[Test]] = field(default_factory=dict)
    """Step → what holds where it runs."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Models that are called within become steps of this trace. Raises TraceError inside another trace."""
        if _TRACING.get() is not None:
            raise TraceError(
                "a function is traced within another: call the inner function itself, it becomes part of this"
            )
        token = _TRACING.set(self)
        try:
            yield
        finally:
            _TRACING.reset(token)

    def call(self, member: Member, values: tuple[Any, ...], named: Mapping[str, Any]) -> Fields:
        """A step that calls the member; what it returns, by name."""
        known = self.members.setdefault(member.name, member)
        if known.entry != member.entry:
            raise TraceError(f"two different models are called {member.name}: rename one of them")
        name = self._name(member)
        given = _bound(member, values, named)
        edges = [self._edge(name, key, value) for key, value in given.items()]
        if all("value" in edge for edge in edges):
            raise TraceError(f"step {name} gets constants alone, which have no rows: feed it a value of the request")
        step: dict[str, Any] = {"name": name, "model": member.name, "inputs": edges}
        if tests := self._untold([edge["from"] for edge in edges if "from" in edge]):
            first, *others = (_comparison(test) for test in tests)
            step["when"] = {**first, **({"and": others} if others else {})}
        if member.timeout_seconds is not None:
            step["timeoutSeconds"] = member.timeout_seconds
        if member.retries:
            step["retries"] = member.retries
        self.steps[name] = step
        self._guards[name] = frozenset(self._branch)
        return Fields(name, member.outputs, lambda key: Value(self, [f"{name}.{key}"]))

    @contextmanager
    def branch(self, test: Test) -> Iterator[None]:
        """Steps called within run only where `test` holds."""
        before = self._branch
        self._branch = tuple(dict.fromkeys((*before, test)))
        try:
            yield
        finally:
            self._branch = before

    def sources(self, value: Value) -> tuple[str, ...]:
        """Of a value of this trace. Raises TraceError for one that another trace left behind."""
        if value.tracing is not self:
            raise TraceError(f"{value!r} is of another trace: values live while their own function is traced")
        return value.sources

    def join(self, left: Value, right: Value) -> Value:
        """Whichever of two branches ran. Raises TraceError where both are always there."""
        merged = tuple(dict.fromkeys((*self.sources(left), *self.sources(right))))
        always = [source for source in merged if self._held(source) <= set(self._branch)]
        if len(always) > 1:
            raise TraceError(
                f"both branches of cond hand on values that are there anyway ({' and '.join(always)}), and nothing "
                "runs that could choose: let a model take both and choose, or call a model in one of the branches"
            )
        if len(merged) > MAX_ALTERNATIVES:
            raise TraceError(f"a value may come from {len(merged)} branches, the limit is {MAX_ALTERNATIVES}")
        return Value(self, [*(source for source in merged if source not in always), *always])

    def _held(self, source: str) -> frozenset[Test]:
        return self._guards.get(source.partition(".")[0], frozenset())

    def _untold(self, sources: list[str]) -> list[Test]:
        """What a step must be told of its branch: the rest follows, since what it reads is there only then."""
        told = {test for source in sources for test in self._held(source)}
        return [test for test in self._branch if test not in told]

    def _name(self, member: Member) -> str:
        if member.step_name is not None:
            if member.step_name in self.steps:
                raise TraceError(f"two steps are called {member.step_name}: give one of them another name")
            return member.step_name
        names = (member.name if count == 1 else f"{member.name}-{count}" for count in range(1, len(self.steps) + 2))
        return next(name for name in names if name not in self.steps)

    def _edge(self, step: str, name: str, given: object) -> dict[str, Any]:
        value = as_value(given)
        if value is None:
            return {"name": name, "value": _constant(step, name, given)}
        sources = self.sources(value)
        return {"name": name, **({"from": sources[0]} if len(sources) == 1 else {"fromFirst": list(sources)})}


def test_of(tracing: Tracing, predicate: object) -> Test:
    """What holds in the first branch of `cond`."""
    value = as_value(predicate)
    condition = Condition(value, equals=True, constant=True) if value is not None else predicate
    if not isinstance(condition, Condition):
        raise TraceError(
            f"cond decides by a value of the request or of a step, got {type(predicate).__name__}, which is known "
            "already: write an ordinary if"
        )
    sources = tracing.sources(condition.value)
    if len(sources) != 1:
        raise TraceError(
            f"cond cannot decide by {condition.value!r}, which comes from either branch: call a model with it"
        )
    return sources[0], condition.equals, type(condition.constant), condition.constant


def opposite(test: Test) -> Test:
    """What holds in the other branch."""
    source, equals, kind, value = test
    return (source, equals, bool, not value) if kind is bool else (source, not equals, kind, value)


def _comparison(test: Test) -> dict[str, Any]:
    source, equals, _, value = test
    return {"from": source, "equals" if equals else "notEquals": value}


def _bound(member: Member, values: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, however they were given."""
    given: dict[str, Any] = {}
    if len(values) == 1 and isinstance(values[0], Mapping):
        given.update(values[0])
    elif len(values) == 1 and isinstance(values[0], Fields):
        given.update(_passed(member, values[0], named))
    elif values:
        if len(values) > len(member.inputs):
            listed = ", ".join(member.inputs) or "none are declared"
            raise TraceError(
                f"model {member.name} was given {len(values)} inputs by position ({listed}): write name=value"
            )
        given.update(zip(member.inputs, values, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise TraceError(f"model {member.name} was given {twice[0]} twice: keep one of them")
    given.update(named)
    if member.inputs and (unknown := [key for key in given if key not in member.inputs]):
        raise TraceError(f"model {member.name} has no input {unknown[0]!r}: write one of {', '.join(member.inputs)}")
    if not given:
        raise TraceError(f"model {member.name} was called without inputs: write name=value")
    return given


def _passed(member: Member, fields: Fields, named: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a step returned, or the request, handed on as it is."""
    if isinstance(fields, Parameter) and fields.used_as == "tensor":
        return dict(zip(member.inputs, [fields.only()], strict=False)) if member.inputs else {fields.name: fields}
    if not member.inputs:
        raise TraceError(
            f'model {member.name} declares no inputs, so that {fields!r} cannot be matched: write name=value["…"]'
        )
    free = [name for name in member.inputs if name not in named]
    if len(free) == 1 and len(fields.known) == 1:
        return {free[0]: fields.only()}
    return {name: fields[name] for name in free if name in fields.known or name not in member.optional}


def _constant(step: str, name: str, given: object) -> Any:
    match given:
        case bool() | int() | float() | str():
            return given
        case list() | tuple():
            return [_constant(step, name, item) for item in given]
        case _ if hasattr(given, "tolist"):
            raise TraceError(f"input {name} of step {step} is an array: write .tolist() for a constant")
        case Condition():
            raise TraceError(f"input {name} of step {step} is a comparison, which only cond takes: let a model compare")
        case _:
            raise TraceError(
                f"input {name} of step {step} is a {type(given).__name__}: hand on a value of the request or a step, "
                "or a constant (a string, a number, True, False, or lists of them)"
            )
