"""Where boxes and arrows go, for graphs of every form."""

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from podium.drawing.arrows import ANSWER, arrows
from podium.drawing.layout import MAX_BENDS, Layout, Size, layout
from podium.drawing.svg import as_svg
from podium_crds.assignment import Graph, Step, StepInput
from podium_crds.graph import MAX_STEPS, REQUEST

SIZE = Size()


def a_graph(reads: list[list[int]]) -> Graph:
    """Steps by what each reads: numbers of earlier steps, or the request where there are none."""
    steps = tuple(
        Step(name=f"s{number}", model="m", inputs=tuple(_input(f"i{source}", source) for source in sources or [-1]))
        for number, sources in enumerate(reads)
    )
    read = {source for sources in reads for source in sources}
    ends = [number for number in range(len(reads)) if number not in read]
    return Graph(steps=steps, outputs=tuple(_input(f"o{number}", number) for number in ends))


def _input(name: str, source: int) -> StepInput:
    return StepInput(name=name, source="request.x" if source < 0 else f"s{source}.x")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 14))
    sources = [st.lists(st.integers(0, number - 1), unique=True, max_size=3) for number in range(1, count)]
    return a_graph([[], *(draw(each) for each in sources)])


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_boxes_lie_apart_within_the_picture_and_arrows_pass_between_them(graph: Graph) -> None:
    made = layout(graph, SIZE)
    assert made.boxes.keys() == {REQUEST, ANSWER, *(step.name for step in graph.steps)}
    for x, y in made.boxes.values():
        assert 0 <= x <= made.width - SIZE.width + 0.01
        assert 0 <= y <= made.height - SIZE.height + 0.01
    for (x1, y1), (x2, y2) in combinations(made.boxes.values(), 2):
        assert abs(x1 - x2) >= SIZE.width - 0.01 or abs(y1 - y2) >= SIZE.height
    for pair, route in made.routes.items():
        assert not touched(made, route), pair


def touched(made: Layout, route: tuple[tuple[float, float], ...]) -> list[str]:
    """Boxes that the straight parts of a route, past whole layers, run through. Curves lie between layers."""
    passed = []
    for (x1, y1), (x2, y2) in list(pairwise(route))[1:-1:2]:
        assert x1 == x2
        passed += [key for key, (x, y) in made.boxes.items() if x < x1 < x + SIZE.width and y1 < y + 1 < y2 + 1]
    return passed


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_arrows_go_down_from_box_to_box(graph: Graph) -> None:
    made = layout(graph, SIZE)
    for arrow in arrows(graph):
        route = made.routes[arrow.start, arrow.end]
        heights = [y for _, y in route]
        assert heights == sorted(heights)
        assert heights[0] == made.boxes[arrow.start][1] + SIZE.height
        assert heights[-1] == made.boxes[arrow.end][1]


def test_a_chain_is_a_straight_line() -> None:
    made = layout(a_graph([[], [0], [1], [2]]), SIZE)
    assert len({round(x) for x, _ in made.boxes.values()}) == 1


def test_two_arrows_that_need_not_cross_do_not() -> None:
    """Written crosswise: the second of the upper steps feeds the first of the lower ones."""
    made = layout(a_graph([[], [], [1], [0]]), SIZE)
    assert (made.boxes["s0"][0] < made.boxes["s1"][0]) == (made.boxes["s3"][0] < made.boxes["s2"][0])


def test_the_largest_graph_is_drawn_with_straight_arrows_where_bends_would_be_too_many() -> None:
    """Each step reads all before it: an arrow from each of 64 to each later one."""
    graph = a_graph([list(range(number)) for number in range(MAX_STEPS)])
    assert (MAX_STEPS - 1) * MAX_STEPS * (MAX_STEPS + 1) / 6 > MAX_BENDS
    made = layout(graph, SIZE)
    assert {len(route) for route in made.routes.values()} == {2}
    assert as_svg("largest", graph).count('class="step"') == MAX_STEPS
