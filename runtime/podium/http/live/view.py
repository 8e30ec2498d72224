"""What the live page shows at one moment, as texts by key: the page is drawn once, its texts are filled in again and
again. Keys are positions, not names, so that no name can be taken for another."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podium.http.live.words import duration, failures, rate
from podium.serving.revisions.flow import Flow, FlowMeter, Point, load_of
from podium.serving.revisions.lifecycle import HostedRevision
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.resident import Resident
from podium.serving.revisions.residents import Residents
from podium_crds.assignment import Graph, Member, Step, StepInput
from podium_crds.graph import REQUEST

FIGURES = ("rate", "latency", "load", "failures")
"""Lines of a box, from the top."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One revision on the page."""

    key: str
    resident: Resident
    hosted: HostedRevision

    @property
    def graph(self) -> Graph:
        """What is drawn: the pipeline, or the one model as a step."""
        return self.hosted.spec.graph or graph_of(self.resident.resource.name, self.hosted.spec.members[0])

    def box(self, number: int) -> str:
        """Key of a step by its position in the graph."""
        return f"{self.key}.{number}"


@dataclass(frozen=True, slots=True)
class View:
    """The figures of a page. `structure` names what is drawn: where it is another one, the page must be drawn anew."""

    structure: str
    texts: Mapping[str, str]
    """By key; empty where there is nothing to say."""
    busy: tuple[str, ...]
    """Boxes through which requests go."""
    failing: tuple[str, ...]

    def wire(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "structure": self.structure,
            "texts": dict(self.texts),
            "busy": list(self.busy),
            "failing": list(self.failing),
        }


def shown(residents: Residents) -> list[Shown]:
    """Every revision that is in the process, the one with the largest share first."""
    found = []
    for place, resident in enumerate(residents):
        ranked = sorted(enumerate(resident.hosted), key=lambda pair: (-resident.weight(pair[1]), pair[0]))
        found += [Shown(f"r{place}.{number}", resident, hosted) for number, (_, hosted) in enumerate(ranked)]
    return found


def structure_of(revisions: list[Shown]) -> str:
    """Changes with whatever the drawing depends on."""
    told = hashlib.sha256()
    for each in revisions:
        resource, spec = each.resident.resource, each.hosted.spec
        loaded = "loaded" if each.hosted.live is not None else ""
        share = "serves" if each.resident.weight(each.hosted) else ""
        told.update(repr((resource.kind, resource.name, spec.name, spec.version, loaded, share)).encode())
        told.update(each.graph.model_dump_json().encode() if loaded else b"")
    return told.hexdigest()[:16]


def view(residents: Residents, meter: FlowMeter) -> View:
    """The figures as of now."""
    flows = meter.look()
    texts: dict[str, str] = {"ready": "ready" if residents.is_ready() else "not ready"}
    busy, failing = [], []
    revisions = shown(residents)
    for each in revisions:
        texts.update(_of_revision(each))
        live = each.hosted.live
        if live is None:
            continue
        texts.update(_of_flow(each.key, flows[Point(live)]))
        for number, step, flow in _boxes(each, live, flows):
            key = each.box(number)
            texts.update(_of_flow(key, flow))
            load = load_of(live, step.model if each.hosted.spec.graph else live.spec.members[0].name)
            texts[f"{key}/load"] = f"{load.running} running · {load.queued} queued" if load else "in other pods"
            if flow.per_s:
                busy.append(key)
            if flow.failed_per_s:
                failing.append(key)
    return View(structure_of(revisions), texts, tuple(busy), tuple(failing))


def graph_of(name: str, member: Member) -> Graph:
    """A model as a graph of one step."""
    inputs = tuple(StepInput(name=spec.name, source=f"{REQUEST}.{spec.name}") for spec in member.inputs)
    outputs = tuple(StepInput(name=spec.name, source=f"{name}.{spec.name}") for spec in member.outputs)
    some_in, some_out = (
        StepInput(name="inputs", source=f"{REQUEST}.inputs"),
        StepInput(name="outputs", source=f"{name}.outputs"),
    )
    step = Step(name=name, model=member.engine.kind.value, inputs=inputs or (some_in,))
    return Graph(steps=(step,), outputs=outputs or (some_out,))


def _boxes(each: Shown, live: LiveRevision, flows: Mapping[Point, Flow]) -> Iterator[tuple[int, Step, Flow]]:
    for number, step in enumerate(each.graph.steps):
        yield number, step, flows[Point(live, step.name if each.hosted.spec.graph else None)]


def _of_revision(each: Shown) -> dict[str, str]:
    hosted, live = each.hosted, each.hosted.live
    failure = f"{hosted.failure.reason.value}: {hosted.failure.message}" if hosted.failure is not None else ""
    return {
        f"{each.key}/state": hosted.state.value,
        f"{each.key}/weight": f"{each.resident.weight(hosted)} %",
        f"{each.key}/in_flight": str(live.in_flight) if live is not None else "",
        f"{each.key}/failure": failure,
    }


def _of_flow(key: str, flow: Flow) -> dict[str, str]:
    return {
        f"{key}/rate": rate(flow.per_s),
        f"{key}/p50": duration(flow.p50_s),
        f"{key}/p99": duration(flow.p99_s),
        f"{key}/latency": f"p50 {duration(flow.p50_s)} · p99 {duration(flow.p99_s)}",
        f"{key}/failures": failures(flow.failed_per_s),
    }
