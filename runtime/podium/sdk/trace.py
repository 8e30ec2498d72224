"""`trace`, `cond` and `parallel`: a plain Python function → the graph of an InferencePipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

from podium.sdk.errors import TraceError
from podium.sdk.tracing import Tracing, current, opposite, test_of
from podium.sdk.values import Fields, Parameter, Value, as_value

Function = Callable[..., Any]
_ORDINARY = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a function was traced to."""

    name: str
    function: Function = field(repr=False, compare=False)
    models: tuple[Mapping[str, Any], ...]
    steps: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    spec: Mapping[str, Any]
    """Further fields of spec, in wire names."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself: inside another trace its steps become part of that."""
        return self.function(*args, **kwargs)

    def manifest(self) -> dict[str, Any]:
        """The InferencePipeline as people write it, unchecked."""
        graph = {"models": list(self.models), "steps": list(self.steps), "outputs": list(self.outputs)}
        return {
            "apiVersion": "podium.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": self.name},
            "spec": {**self.spec, **graph},
        }


@overload
def trace(function: Function, *, name: str | None = None, **spec: Any) -> Pipeline: ...
@overload
def trace(*, name: str | None = None, **spec: Any) -> Callable[[Function], Pipeline]: ...
def trace(function: Function | None = None, *, name: str | None = None, **spec: Any) -> Any:
    """Runs `function` once on stand-ins for the request's tensors. Also a decorator.

    One parameter is the request: `request["text"]`. Several are its tensors by name. Parameters with a default are not
    traced. What it returns is the answer: a dictionary (keys name the outputs, nested ones with a dot), a tuple
    (`output_0`, …), what a model returned, or one value. `spec`: further fields of the pipeline, such as
    `replicas=2`. Raises TraceError for what a graph cannot express, and says what to write instead.
    """
    if function is None:
        return lambda decorated: trace(decorated, name=name, **spec)
    if isinstance(function, Pipeline):
        function = function.function
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TraceError(
            f"{function.__name__} is a coroutine or a generator: write an ordinary def; steps run at once anyway"
        )
    tracing = Tracing()
    parameters = _parameters(function, tracing)
    with tracing.active():
        outputs = list(_outputs(tracing, function(*parameters)))
    _refuse_unused(function, tracing, parameters, outputs)
    return Pipeline(
        name=name or function.__name__.strip("_").replace("_", "-"),
        function=function,
        models=tuple(member.entry for member in tracing.members.values()),
        steps=tuple(tracing.steps.values()),
        outputs=tuple(outputs),
        spec={_camel(key): value for key, value in spec.items()},
    )


def cond(predicate: Any, if_true: Callable[..., Any], if_false: Callable[..., Any] | None = None, *args: Any) -> Any:
    """What `if_true` returns where the predicate holds, else what `if_false` returns; only that branch runs.

    `predicate`: a true-or-false value, or a comparison of a value with a string or an integer (`==`, `!=`), which must
    be the same for all rows of a request. Branches are called with `args`, may use values from outside, and return the
    same names. Without `if_false`, outputs of the branch are left out of the answer where it did not run.
    """
    tracing = current("cond was called")
    test = test_of(tracing, predicate)
    with tracing.branch(test):
        yes = _called("the first branch of cond", if_true, args)
    if if_false is None:
        return yes
    with tracing.branch(opposite(test)):
        no = _called("the second branch of cond", if_false, args)
    return _merged(tracing, yes, no)


def parallel(*branches: Callable[[], Any], **named: Callable[[], Any]) -> Any:
    """What the branches return, as a tuple; or by name, as a dictionary. Independent steps run at once in any case."""
    current("parallel was called")
    if bool(branches) == bool(named):
        raise TraceError("parallel takes branches or named branches: parallel(f, g), or parallel(left=f, right=g)")
    if named:
        return {name: _called(f"branch {name} of parallel", branch, ()) for name, branch in named.items()}
    return tuple(_called(f"branch {number} of parallel", branch, ()) for number, branch in enumerate(branches))


def _called(what: str, branch: object, args: tuple[Any, ...]) -> Any:
    if not callable(branch) or isinstance(branch, Value | Fields):
        raise TraceError(f"{what} is no function: write lambda: …, so that its steps are known to be of the branch")
    result = branch(*args)
    if result is None:
        raise TraceError(f"{what} returns nothing: return the values that it is there for")
    return result


def _merged(tracing: Tracing, yes: Any, no: Any) -> Any:
    match yes, no:
        case (tuple() | list(), tuple() | list()):
            if len(yes) != len(no):
                raise TraceError(f"the branches of cond return {len(yes)} and {len(no)} values: return as many in each")
            return tuple(_merged(tracing, left, right) for left, right in zip(yes, no, strict=True))
        case (Mapping(), Mapping()):
            if odd := sorted(yes.keys() ^ no.keys()):
                raise TraceError(f"only one branch of cond returns {odd[0]!r}: return the same names in each")
            return {key: _merged(tracing, yes[key], no[key]) for key in yes}
        case (Fields() | Mapping(), Fields() | Mapping()):
            names = [key for key in _known(yes) or _known(no) if not _known(no) or key in _known(no)]
            name = f"the value of cond ({_told(yes)} or {_told(no)})"
            return Fields(name, names, lambda key: _merged(tracing, yes[key], no[key]))
    left, right = as_value(yes), as_value(no)
    if left is None or right is None:
        odd_one = yes if left is None else no
        raise TraceError(
            f"a branch of cond returns a {type(odd_one).__name__}: return what models or the request hand on, the same "
            "way in each branch"
        )
    return tracing.join(left, right)


def _known(item: Fields | Mapping[str, Any]) -> tuple[str, ...]:
    return item.known if isinstance(item, Fields) else tuple(item)


def _told(item: Fields | Mapping[str, Any]) -> str:
    return item.name if isinstance(item, Fields) else "a dictionary"


def _parameters(function: Function, tracing: Tracing) -> list[Parameter]:
    found = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    for each in found:
        if each.kind not in _ORDINARY[:2]:
            raise TraceError(f"parameter {each} has no name that a request could carry: write out the parameters")
    if not found:
        raise TraceError(
            f"{function.__name__} has no parameter: a pipeline answers requests, so give it one, the request"
        )
    return [Parameter(tracing, each.name, alone=len(found) == 1) for each in found]


def _outputs(tracing: Tracing, result: object, name: str = "") -> list[dict[str, Any]]:
    """Entries of spec.outputs for what the function returned."""
    match result:
        case Mapping():
            return [entry for key, item in result.items() for entry in _outputs(tracing, item, _joined(name, str(key)))]
        case tuple() if hasattr(result, "_asdict"):
            return _outputs(tracing, result._asdict(), name)
        case tuple() | list():
            keys = (_joined(name, str(number)) if name else f"output_{number}" for number in range(len(result)))
            return [entry for key, item in zip(keys, result, strict=True) for entry in _outputs(tracing, item, key)]
        case Fields() if len(result.known) > 1 or (result.known and not name):
            return [entry for key in result.known for entry in _outputs(tracing, result[key], _joined(name, key))]
    value = as_value(result)
    if value is None:
        raise TraceError(
            f"the function returns a {type(result).__name__}{f' as {name}' if name else ''}: return what models hand "
            "on, alone, in a dictionary or in a tuple"
        )
    sources = tracing.sources(value)
    own = name or sources[0].partition(".")[2]
    return [{"name": own, **({"from": sources[0]} if len(sources) == 1 else {"fromFirst": list(sources)})}]


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _refuse_unused(
    function: Function, tracing: Tracing, parameters: list[Parameter], outputs: list[dict[str, Any]]
) -> None:
    if not outputs:
        raise TraceError(f"{function.__name__} returns nothing: return what the answer is to carry")
    pending = [source for output in outputs for source in _sources(output)]
    used: set[str] = set()
    read: set[str] = set()
    while pending:
        source = pending.pop()
        step = source.partition(".")[0]
        read.add(source)
        if step in tracing.steps and step not in used:
            used.add(step)
            pending += _read_by(tracing.steps[step])
    if idle := [name for name in tracing.steps if name not in used]:
        raise TraceError(f"nothing uses what step {idle[0]} returns: return it, hand it on, or remove the call")
    for parameter in parameters if len(parameters) > 1 else ():
        if f"request.{parameter.name}" not in read:
            raise TraceError(f"nothing uses parameter {parameter.name}: hand it to a model, or remove it")


def _read_by(step: Mapping[str, Any]) -> list[str]:
    when = step.get("when")
    compared = [when["from"], *(other["from"] for other in when.get("and", ()))] if when else []
    return [source for edge in step["inputs"] for source in _sources(edge)] + compared


def _sources(edge: Mapping[str, Any]) -> list[str]:
    return edge.get("fromFirst") or ([edge["from"]] if "from" in edge else [])


def _camel(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(word.capitalize() for word in others)
