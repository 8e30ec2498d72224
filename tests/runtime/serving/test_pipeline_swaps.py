"""A pipeline's revisions share the workers of the members that did not change."""

from pathlib import Path

import httpx
from tests.runtime.serving.builders import a_member
from tests.runtime.serving.processes import RunningPod, running_pod

from podium_crds.assignment import (
    Assignment,
    DrainPolicy,
    Generation,
    Graph,
    ResourceKind,
    ResourceRef,
    Revision,
    TrafficTarget,
)


def a_pipeline(name: str, **factors: float) -> Revision:
    """A chain of members, each of which multiplies by its factor."""
    steps, source = [], "request.x"
    for member in factors:
        steps.append({"name": member, "model": member, "inputs": [{"name": "x", "from": source}]})
        source = f"{member}.y"
    members = tuple(a_member(factor).model_copy(update={"name": member}) for member, factor in factors.items())
    graph = Graph.model_validate({"steps": steps, "outputs": [{"name": "y", "from": source}]})
    return Revision(name=name, version=name, members=members, graph=graph, timeout_seconds=10)


def assigned(sequence: int, *revisions: Revision) -> Assignment:
    return Assignment(
        generation=Generation(sequence=sequence),
        resource=ResourceRef(kind=ResourceKind.PIPELINE, name="chain"),
        revisions=revisions,
        traffic=(TrafficTarget(revision=revisions[0].name, weight=100),),
        promoted=revisions[0].name,
        drain=DrainPolicy(propagation_seconds=1, drain_timeout_seconds=5, restart_grace_seconds=2),
    )


def answer(pod: RunningPod) -> float:
    response = httpx.post(f"{pod.url}/v1/pipelines/chain:run", json={"inputs": {"x": [1.0]}}, timeout=30)
    assert response.status_code == 200, response.text
    return float(response.json()["outputs"]["y"]["data"][0])


def pids(pod: RunningPod, revision: str) -> dict[str, tuple[int, ...]]:
    found = pod.report().revision(revision)
    assert found is not None
    return {member.name: member.pids for member in found.members}


def test_a_revision_that_changes_one_member_reloads_one_member(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        first, second = a_pipeline("one", a=2, b=3, c=5), a_pipeline("two", a=2, b=7, c=5)
        assert pod.push(assigned(1, first)).status_code == 200
        pod.serves("one")
        assert answer(pod) == 30.0
        before = pids(pod, "one")
        pod.push(assigned(2, second))
        pod.serves("two")
        assert answer(pod) == 70.0
        after = pids(pod, "two")
        assert (after["a"], after["c"]) == (before["a"], before["c"])
        assert after["b"]
        assert after["b"] != before["b"]
        pod.reports(lambda report: report.revision("one") is None)
        assert answer(pod) == 70.0
        assert pids(pod, "two") == after
