"""`podium graph`: a pipeline as text, as Mermaid, or as an SVG without anything from outside."""

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from podium.cli.local_files import compile_texts, explain, read_texts
from podium_crds.assignment import Graph, Step, StepInput
from podium_crds.errors import CrdsError
from podium_crds.graph import REQUEST, comparisons, predecessors, split_source, topological_order

ANSWER = "answer"
"""The node that the outputs go to. A step may have the name, so that drawings use keys of their own."""
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 190, 46, 40, 74, 20
"""Of a box in the SVG, between boxes, between layers, and around all; in pixels."""
EDGE_CHARS = 26


@dataclass(frozen=True, slots=True)
class Arrow:
    """A value that goes from one node to another."""

    start: str
    end: str
    label: str
    decides: bool = False
    """True for the value of a condition."""


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


def condition(step: Step) -> str:
    """`a.label = "hard" and b.flag ≠ true`; empty where the step always runs."""
    told = []
    for comparison in comparisons(step):
        value = comparison.equals if comparison.not_equals is None else comparison.not_equals
        shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else value
        told.append(f"{comparison.source} {'=' if comparison.not_equals is None else '≠'} {shown}")
    return " and ".join(told)


def as_mermaid(name: str, graph: Graph) -> str:
    """A flowchart for Markdown."""
    keys = _keys(graph)
    lines = [f"%% {name}", "flowchart TD", f'  {keys[REQUEST]}(["request"])']
    lines += [f'  {keys[step.name]}["{step.name}<br/><small>{step.model}</small>"]' for step in graph.steps]
    lines.append(f'  {keys[""]}(["{ANSWER}"])')
    for arrow in arrows(graph):
        line = "-." if arrow.decides else "--"
        end = ".->" if arrow.decides else "-->"
        lines.append(f'  {keys[arrow.start]} {line} "{_quoted(arrow.label)}" {end} {keys[arrow.end]}')
    return "\n".join(lines) + "\n"


def as_svg(name: str, graph: Graph) -> str:
    """One picture: layers from top to bottom, dashed arrows for what decides whether a step runs."""
    places = _places(graph)
    width = max(x for x, _ in places.values()) + WIDTH + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT + MARGIN
    parts = [_arrow_svg(arrow, places) for arrow in arrows(graph)]
    parts += [_box_svg(key, places[key], graph) for key in places]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{html.escape(name)}</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#556"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def arrows(graph: Graph) -> list[Arrow]:
    """Every edge, one for each pair of nodes and kind, with the names of its values. The answer is the node ``."""
    found: dict[tuple[str, str, bool], list[str]] = {}
    for step in graph.steps:
        for edge in step.inputs:
            _add(found, edge, step.name)
        for comparison in comparisons(step):
            start, value = split_source(comparison.source)
            found.setdefault((start, step.name, True), []).append(value)
    for edge in graph.outputs:
        _add(found, edge, "")
    return [Arrow(start, end, ", ".join(names), decides) for (start, end, decides), names in found.items()]


def _add(found: dict[tuple[str, str, bool], list[str]], edge: StepInput, end: str) -> None:
    for origin in edge.origins:
        start, value = split_source(origin)
        label = value if value == edge.name else f"{value} → {edge.name}"
        found.setdefault((start, end, False), []).append(label)


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
    return {REQUEST: "request", "": ANSWER, **{step.name: f"s{number}" for number, step in enumerate(graph.steps)}}


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")


def _places(graph: Graph) -> dict[str, tuple[int, int]]:
    """Upper left corner of each node: as deep as its longest way from the request, layers centred."""
    depth = {REQUEST: 0}
    for step in topological_order(graph):
        depth[step.name] = 1 + max((depth[before] for before in predecessors(step)), default=0)
    depth[""] = 1 + max(depth.values())
    layers: dict[int, list[str]] = {}
    for key, layer in depth.items():
        layers.setdefault(layer, []).append(key)
    widest = max(map(len, layers.values())) * (WIDTH + ACROSS) - ACROSS
    return {
        key: (
            MARGIN + (widest - len(keys) * (WIDTH + ACROSS) + ACROSS) // 2 + number * (WIDTH + ACROSS),
            MARGIN + layer * (HEIGHT + DOWN),
        )
        for layer, keys in layers.items()
        for number, key in enumerate(keys)
    }


def _box_svg(key: str, place: tuple[int, int], graph: Graph) -> str:
    x, y = place
    step = next((step for step in graph.steps if step.name == key), None)
    title, below = (step.name, step.model) if step is not None else (key or ANSWER, "")
    fill, corner = ("#eef4ff", 6) if step is not None else ("#f3f3f3", HEIGHT // 2)
    told = f"<title>{html.escape(condition(step))}</title>" if step is not None and step.when is not None else ""
    return (
        f'<g>{told}<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{corner}" fill="{fill}" stroke="#556"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + (20 if below else 28)}" text-anchor="middle" font-weight="bold">'
        f"{html.escape(_cut(title))}</text>"
        f'<text x="{x + WIDTH // 2}" y="{y + 36}" text-anchor="middle" fill="#556">'
        f"{html.escape(_cut(below))}</text></g>"
    )


def _arrow_svg(arrow: Arrow, places: Mapping[str, tuple[int, int]]) -> str:
    (x1, y1), (x2, y2) = places[arrow.start], places[arrow.end]
    x1, y1, x2 = x1 + WIDTH // 2, y1 + HEIGHT, x2 + WIDTH // 2
    bend = (y1 + y2) // 2
    dashes = ' stroke-dasharray="5 4"' if arrow.decides else ""
    return (
        f'<path d="M{x1} {y1}C{x1} {bend} {x2} {bend} {x2} {y2}" fill="none" stroke="#556"{dashes} '
        f'marker-end="url(#head)"/><text x="{(x1 + x2) // 2 + 4}" y="{bend}" fill="#335" font-size="10">'
        f"{html.escape(_cut(arrow.label))}<title>{html.escape(arrow.label)}</title></text>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= EDGE_CHARS else f"{text[: EDGE_CHARS - 1]}…"


DRAWINGS: Mapping[str, Callable[[str, Graph], str]] = {"text": as_text, "mermaid": as_mermaid, "svg": as_svg}
