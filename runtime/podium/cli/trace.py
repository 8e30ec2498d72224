"""`podium trace module:function`: the InferencePipeline that a Python function was traced to, as YAML."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import typer
import yaml

from podium.sdk.errors import TraceError
from podium.sdk.trace import Pipeline, trace
from podium_crds.errors import CrdsError, ResourceError
from podium_crds.graph import Contract, check_graph
from podium_crds.parse import load_resources
from podium_crds.pipeline import InferencePipeline
from podium_crds.revision import graph_of


def print_trace(target: str, name: str | None) -> int:
    """Prints the YAML. Exit status 1 with what is wrong on standard error."""
    try:
        pipeline = load(target, name)
        text = yaml_of(pipeline)
    except (TraceError, TypeError) as error:
        typer.echo(f"error: {_where(error)}{error}", err=True)
        return 1
    except CrdsError as error:
        problems = error.problems if isinstance(error, ResourceError) else (error,)
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        return 1
    typer.echo(text, nl=False)
    return 0


def load(target: str, name: str | None = None) -> Pipeline:
    """The pipeline of `module:function`, imported from the working directory or the path. Raises TraceError."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise TraceError(f"{target!r} names no function: write module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise TraceError(f"cannot import {module_name}: {error}") from error
    found: Pipeline | Callable[..., object] | None = getattr(module, attribute, None)
    if isinstance(found, Pipeline) and name is None:
        return found
    if not callable(found):
        raise TraceError(f"module {module_name} has no function {attribute}")
    return trace(found, name=name)


def yaml_of(pipeline: Pipeline) -> str:
    """The resource as YAML, checked as `podium validate` would. Raises ResourceError."""
    # Plain values first, so that a mapping that occurs twice is written twice and not as an alias.
    text = yaml.dump(pipeline.manifest(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    (resource,) = load_resources(_checkable(text), pipeline.name)
    assert isinstance(resource, InferencePipeline)
    contracts = {
        member.name: Contract(member.inline.inputs, member.inline.outputs) if member.inline else Contract()
        for member in resource.spec.models
    }
    if faults := check_graph(graph_of(resource.spec), contracts):
        raise ResourceError(f"InferencePipeline {pipeline.name}", tuple(fault.problem() for fault in faults))
    return text


class _Plain(yaml.SafeDumper):
    """Block style, tuples as lists, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


_Plain.add_representer(tuple, lambda dumper, data: dumper.represent_list(data))


def _checkable(text: str) -> str:
    """Sources beside the file become absolute, as they will be where it is served from."""
    from podium.cli.local_files import absolute

    return absolute(text, Path.cwd())


def _where(error: Exception) -> str:
    """`file:line: ` of the author's own line, the last one that is not Podium's."""
    own = str(Path(inspect.getfile(TraceError)).parent)
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    theirs = [frame for frame in frames if own not in frame.filename and "/podium/cli/" not in frame.filename]
    theirs = [frame for frame in theirs if "importlib" not in frame.filename]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}: " if theirs else ""
