"""`podium graph`: a pipeline as text, as Mermaid, or as an SVG without anything from outside."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import typer

from podium.cli.local_files import compile_texts, explain, read_texts
from podium.drawing.arrows import ANSWER, arrows, condition
from podium.drawing.svg import as_svg
from podium_crds.assignment import Graph, Step, StepInput
from podium_crds.errors import CrdsError
from podium_crds.graph import REQUEST, comparisons, split_source, topological_order


def print_graph(paths: tuple[Path, ...], output: str, name: str | None) -> int:
    """Prints the drawing. Exit status 1 with what is wrong on standard error, 2 for options that cannot be."""
    drawing = DRAWINGS.get(output)
    if drawing is None:
        typer.echo(f"error: --output {output}: write one of {', '.join(DRAWINGS)}", err=True)
        return 2
    try:
        records = compile_texts(read_texts(paths)).records
    except CrdsError as error:
        for line in explain(error):
            typer.echo(f"error: {line}", err=True)
        return 1
    found = {record.resource.name: record.graph for record in records if record.graph is not None}
    if name is None and len(found) == 1:
        name = next(iter(found))
    graph = found.get(name or "")
    if graph is None:
        typer.echo(f"error: write --name and one of: {', '.join(found) or '(no pipeline in the files)'}", err=True)
        return 2
    typer.echo(drawing(name or "", graph), nl=False)
    return 0


def as_text(name: str, graph: Graph) -> str:
    """The steps in an order in which they could run, with where each input comes from."""
    return "\n".join(_lines(name, graph)) + "\n"


def _lines(name: str, graph: Graph) -> Iterator[str]:
    yield f"{name}({', '.join(_asked(graph))})"
    for step in topological_order(graph):
        yield f"  {step.name}: {step.model}{_limits(step)}"
        if step.when is not None:
            yield f"    only if {condition(step)}"
        for edge in step.inputs:
            yield f"    {edge.name} ← {_origin(edge)}"
    yield "  answer"
    for edge in graph.outputs:
        yield f"    {edge.name} ← {_origin(edge)}"


def as_mermaid(name: str, graph: Graph) -> str:
    """A flowchart for Markdown."""
    keys = _keys(graph)
    lines = [f"%% {name}", "flowchart TD", f'  {keys[REQUEST]}(["request"])']
    lines += [f'  {keys[step.name]}["{step.name}<br/><small>{step.model}</small>"]' for step in graph.steps]
    lines.append(f'  {keys[ANSWER]}(["answer"])')
    for arrow in arrows(graph):
        line = "-." if arrow.decides else "--"
        end = ".->" if arrow.decides else "-->"
        lines.append(f'  {keys[arrow.start]} {line} "{_quoted(arrow.label)}" {end} {keys[arrow.end]}')
    return "\n".join(lines) + "\n"


def _asked(graph: Graph) -> list[str]:
    sources = [origin for step in graph.steps for edge in step.inputs for origin in edge.origins]
    sources += [comparison.source for step in graph.steps for comparison in comparisons(step)]
    return list(dict.fromkeys(name for source in sources for start, name in [split_source(source)] if start == REQUEST))


def _origin(edge: StepInput) -> str:
    return " or else ".join(edge.origins) or f"constant {edge.value!r}"


def _limits(step: Step) -> str:
    limits = [f"{step.timeout_seconds} s"] if step.timeout_seconds is not None else []
    limits += [f"{step.retries} retries"] if step.retries else []
    return f" ({', '.join(limits)})" if limits else ""


def _keys(graph: Graph) -> Mapping[str, str]:
    """Node names as Mermaid takes them: `end` and the like are words of its own."""
    return {
        REQUEST: "request",
        ANSWER: "answer",
        **{step.name: f"s{number}" for number, step in enumerate(graph.steps)},
    }


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")


DRAWINGS: Mapping[str, Callable[[str, Graph], str]] = {"text": as_text, "mermaid": as_mermaid, "svg": as_svg}
