"""A graph as an SVG that needs nothing from outside: boxes for steps, dashed arrows for what decides if a step runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from zlib import crc32

from podium.drawing.arrows import ANSWER, Arrow, arrows, condition
from podium.drawing.layout import Layout, Point, Size, layout
from podium_crds.assignment import Graph, Step

LABEL_CHARS = 26
NAME_CHARS = 22
CHAR_WIDTH = 6
"""Of a label, about, in pixels."""
LABEL_ROWS = (0.62, 0.38, 0.8, 0.2)
"""Heights in the room between two layers that labels are put at, the first free one."""
LINE_HEIGHT = 16


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in a box that a script fills in."""

    key: str
    """What the script finds it by."""
    kind: str
    """Its class for the style sheet."""


def as_svg(name: str, graph: Graph, lines: Mapping[str, Sequence[Line]] | None = None) -> str:
    """One picture. `lines`: step → what its box has below its model; such a box is a group with `data-box`."""
    told = lines or {}
    rows = max(map(len, told.values()), default=0)
    size = Size(height=Size().height + rows * LINE_HEIGHT)
    place = layout(graph, size)
    found = arrows(graph)
    steps = {step.name: step for step in graph.steps}
    head = f"head-{crc32(name.encode()):x}"  # its own: a page may hold several pictures, some of them folded away
    parts = [_path(arrow, place, head) for arrow in found]
    parts += _labels(found, place, size)
    parts += [_box(key, corner, steps.get(key), told.get(key, ()), size) for key, corner in place.boxes.items()]
    spare = size.height - Size().height  # request and answer have no lines
    width, height = round(place.width), round(place.height) - 2 * spare
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {spare} {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="sans-serif" font-size="12">'
        f"<title>{escape(name)}</title>\n"
        f'<defs><marker id="{head}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto">'
        '<path class="head" d="M0 0L8 4L0 8z" fill="#556"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def cut(text: str, chars: int = LABEL_CHARS) -> str:
    """At most as much as fits."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _path(arrow: Arrow, place: Layout, head: str) -> str:
    """Curves between layers, straight lines past boxes."""
    (x, y), *rest = place.routes[arrow.start, arrow.end]
    parts = [f"M{x:.0f} {y:.0f}"]
    for to_x, to_y in rest:
        bend = (y + to_y) / 2
        is_straight = abs(to_x - x) < 1
        end = f"{to_x:.0f} {to_y:.0f}"
        parts.append(f"L{end}" if is_straight else f"C{x:.0f} {bend:.0f} {to_x:.0f} {bend:.0f} {end}")
        x, y = to_x, to_y
    dashes = ' stroke-dasharray="5 4"' if arrow.decides else ""
    line = f'd="{"".join(parts)}" fill="none" stroke="#556"{dashes}'
    return f'<path class="arrow" {line} marker-end="url(#{head})"/>'


def _labels(found: Sequence[Arrow], place: Layout, size: Size) -> list[str]:
    """Each before the end of its arrow, in a row where it covers no other."""
    parts: list[str] = []
    taken: dict[float, list[tuple[float, float]]] = {}
    for arrow in found:
        (start_x, start_y), (end_x, end_y) = place.routes[arrow.start, arrow.end][-2:]
        top = end_y - size.down
        half = len(cut(arrow.label)) * CHAR_WIDTH / 2
        for share in LABEL_ROWS:
            y = top + share * size.down
            # A little towards the end: where many arrows leave one box, their labels part.
            x = start_x + (end_x - start_x) * (0.4 + share * 0.4) if start_y >= top else end_x
            others = taken.setdefault(y, [])
            if all(x + half < left or x - half > right for left, right in others):
                break
        others.append((x - half, x + half))
        parts.append(
            f'<text class="label" x="{x:.0f}" y="{y:.0f}" text-anchor="middle" fill="#335" font-size="10">'
            f"{escape(cut(arrow.label))}<title>{escape(arrow.label)}</title></text>"
        )
    return parts


def _box(key: str, corner: Point, step: Step | None, lines: Sequence[Line], size: Size) -> str:
    if step is None:
        spare, size = size.height - Size().height, replace(size, height=Size().height)
        corner = (corner[0], corner[1] + (0 if key == ANSWER else spare))
    title, below = (step.name, step.model) if step is not None else (key or "answer", "")
    (x, y), middle = corner, corner[0] + size.width / 2
    fill, radius = ("#eef4ff", 6.0) if step is not None else ("#f3f3f3", size.height / 2)
    told = "\n".join(filter(None, (f"{title}: {below}" if below else "", condition(step) if step else "")))
    box = f' data-box="{escape(lines[0].key.rpartition("/")[0])}"' if lines else ""
    texts = "".join(
        f'<text class="{line.kind}" data-figure="{escape(line.key)}" x="{middle:.0f}" '
        f'y="{y + Size().height + (row + 0.75) * LINE_HEIGHT - 2:.0f}" text-anchor="middle">—</text>'
        for row, line in enumerate(lines)
    )
    return (
        f'<g class="{"step" if step is not None else "end"}"{box}>{f"<title>{escape(told)}</title>" if told else ""}'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{size.width}" height="{size.height}" rx="{radius:.0f}" fill="{fill}" '
        f'stroke="#556"/><text class="name" x="{middle:.0f}" y="{y + (20 if below else 28):.0f}" text-anchor="middle" '
        f'font-weight="bold">{escape(cut(title, NAME_CHARS))}</text>'
        f'<text class="model" x="{middle:.0f}" y="{y + 36:.0f}" text-anchor="middle" fill="#556">'
        f"{escape(cut(below))}</text>{texts}</g>"
    )
