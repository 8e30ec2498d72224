"""Where the boxes and arrows of a graph go: layers from top to bottom, few crossings, no arrow through a box.

After Sugiyama, Tagawa and Toda (1981): longest-path layers, a point in every layer that an arrow passes, the order of
each layer by barycentres. Across, each layer is as near to its neighbours as its order allows: an isotonic regression,
solved by pooling adjacent violators.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from podium.drawing.arrows import ANSWER, arrows
from podium_crds.assignment import Graph
from podium_crds.graph import REQUEST, predecessors, topological_order

SWEEPS = 8
MAX_BENDS = 600
"""Points that arrows bend at. A graph with more gets straight arrows behind its boxes: no picture of it is clear, and
its layout must not take long in a process that serves."""

Point = tuple[float, float]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Size:
    """Of a box, of the room between boxes and between layers, and around all; in pixels."""

    width: int = 190
    height: int = 46
    across: int = 40
    down: int = 74
    margin: int = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawing's geometry. Keys are names of steps, `request`, and ANSWER."""

    width: float
    height: float
    boxes: Mapping[str, Point]
    """Upper left corners."""
    routes: Mapping[Pair, tuple[Point, ...]]
    """From the lower edge of the first box to the upper edge of the second: between two points of one layer an arrow
    goes straight down, so that it touches no box there."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A box, or the place at which an arrow passes a layer."""

    layer: int
    key: str | Pair


def layout(graph: Graph, size: Size) -> Layout:
    """The geometry of a checked graph."""
    depth = _depths(graph)
    pairs = list(dict.fromkeys((arrow.start, arrow.end) for arrow in arrows(graph)))
    if sum(depth[end] - depth[start] - 1 for start, end in pairs) > MAX_BENDS:
        chains = {pair: [_Node(depth[key], key) for key in pair] for pair in pairs}
    else:
        chains = {pair: _chain(pair, depth) for pair in pairs}
    layers = _ordered(_layers(depth, chains), _links(chains.values()))
    centres = _centred(layers, _links(chains.values()), size)
    left = min((centres[node] - _room(node, size) / 2 for layer in layers for node in layer), default=0)
    right = max((centres[node] + _room(node, size) / 2 for layer in layers for node in layer), default=0)
    xs = {node: centre - left + size.margin for node, centre in centres.items()}
    tops = [size.margin + layer * (size.height + size.down) for layer in range(len(layers))]
    return Layout(
        width=right - left + 2 * size.margin,
        height=tops[-1] + size.height + size.margin,
        boxes={key: (xs[_Node(layer, key)] - size.width / 2, tops[layer]) for key, layer in depth.items()},
        routes={pair: _route(chain, xs, tops, size) for pair, chain in chains.items()},
    )


def _depths(graph: Graph) -> dict[str, int]:
    """Layer of each box: as deep as its longest way from the request."""
    depth = {REQUEST: 0}
    for step in topological_order(graph):
        depth[step.name] = 1 + max((depth[before] for before in predecessors(step)), default=0)
    depth[ANSWER] = 1 + max(depth.values())
    return depth


def _chain(pair: Pair, depth: Mapping[str, int]) -> list[_Node]:
    start, end = pair
    between = [_Node(layer, pair) for layer in range(depth[start] + 1, depth[end])]
    return [_Node(depth[start], start), *between, _Node(depth[end], end)]


def _layers(depth: Mapping[str, int], chains: Mapping[Pair, Sequence[_Node]]) -> list[list[_Node]]:
    nodes = [_Node(layer, key) for key, layer in depth.items()]
    nodes += [node for chain in chains.values() for node in chain[1:-1]]
    return [[node for node in nodes if node.layer == layer] for layer in range(depth[ANSWER] + 1)]


def _links(chains: Iterable[Sequence[_Node]]) -> list[tuple[_Node, _Node]]:
    return [link for chain in chains for link in pairwise(chain)]


def _ordered(layers: list[list[_Node]], links: Sequence[tuple[_Node, _Node]]) -> list[list[_Node]]:
    """The order with the fewest crossings that the sweeps come across."""
    above, below = _neighbours(links)
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(SWEEPS):
        layers = [list(layer) for layer in layers]
        downward = sweep % 2 == 0
        for layer in range(len(layers)) if downward else range(len(layers) - 1, -1, -1):
            beside = layers[layer - 1 if downward else layer + 1] if 0 < layer + (not downward) < len(layers) else []
            places = {node: place for place, node in enumerate(beside)}
            near = above if downward else below
            own = {node: place for place, node in enumerate(layers[layer])}
            layers[layer].sort(key=lambda node: _barycentre(node, near, places, own))
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _neighbours(links: Sequence[tuple[_Node, _Node]]) -> tuple[dict[_Node, list[_Node]], dict[_Node, list[_Node]]]:
    above: dict[_Node, list[_Node]] = {}
    below: dict[_Node, list[_Node]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _barycentre(
    node: _Node, near: Mapping[_Node, list[_Node]], places: Mapping[_Node, int], own: Mapping[_Node, int]
) -> float:
    found = [places[other] for other in near.get(node, ()) if other in places]
    return sum(found) / len(found) if found else own[node]


def _crossings(layers: Sequence[Sequence[_Node]], below: Mapping[_Node, list[_Node]]) -> int:
    """Inversions among the lower ends of links, upper ends in order."""
    crossed = 0
    for upper, lower in pairwise(layers):
        places = {node: place for place, node in enumerate(lower)}
        seen: list[int] = []
        for node in upper:
            ends = sorted(places[other] for other in below.get(node, ()) if other in places)
            crossed += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return crossed


def _centred(layers: Sequence[Sequence[_Node]], links: Sequence[tuple[_Node, _Node]], size: Size) -> dict[_Node, float]:
    """Centre of every node across, the order of each layer kept."""
    above, below = _neighbours(links)
    centres: dict[_Node, float] = {}
    for layer in layers:
        centres.update(zip(layer, _spread([0.0] * len(layer), layer, size), strict=True))
    for sweep in range(SWEEPS):
        downward = sweep % 2 == 0
        for layer in layers if downward else reversed(layers):
            wanted = []
            for node in layer:
                near = (above, below) if downward else (below, above)
                beside = near[0].get(node) or near[1].get(node) or []
                wanted.append(sum(centres[other] for other in beside) / len(beside) if beside else centres[node])
            centres.update(zip(layer, _spread(wanted, layer, size), strict=True))
    return centres


def _spread(wanted: Sequence[float], layer: Sequence[_Node], size: Size) -> list[float]:
    """Centres in order and apart, with the least sum of squared distances from where they are wanted."""
    offsets = [0.0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + (_room(left, size) + _room(right, size)) / 2 + size.across)
    blocks: list[tuple[float, int]] = []  # sum and number of those that stand as close as they may
    for target, offset in zip(wanted, offsets, strict=True):
        total, count = target - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before, several = blocks.pop()
            total, count = total + before, count + several
        blocks.append((total, count))
    free = [total / count for total, count in blocks for _ in range(count)]
    return [place + offset for place, offset in zip(free, offsets, strict=True)]


def _room(node: _Node, size: Size) -> float:
    return size.width if isinstance(node.key, str) else 0


def _route(chain: Sequence[_Node], xs: Mapping[_Node, float], tops: Sequence[float], size: Size) -> tuple[Point, ...]:
    points: list[Point] = [(xs[chain[0]], tops[chain[0].layer] + size.height)]
    for node in chain[1:-1]:
        points += [(xs[node], tops[node.layer]), (xs[node], tops[node.layer] + size.height)]
    return (*points, (xs[chain[-1]], tops[chain[-1].layer]))
