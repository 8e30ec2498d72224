"""A pod copies requests to a candidate and compares its answers; clients notice nothing. Real processes and sockets."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.runtime.serving.builders import CODE, a_revision, an_assignment
from tests.runtime.serving.processes import RunningPod, running_pod, until
from tests.runtime.serving.test_pipeline_swaps import a_pipeline, answer, assigned

from podium.serving.revisions.shadow import AT_ONCE, WAITING
from podium_crds.assignment import Assignment, Report, Revision
from podium_crds.shadow import OutputTolerance, Shadow, ShadowReport

PREDICT = "/v1/models/scale:predict"
FAILING = CODE.replace('return {"y"', 'raise ValueError("secret words of a request")\n        return {"y"')
STUCK = CODE.replace('return {"y"', 'time.sleep(600) if inputs["x"][0] > 0 else None\n        return {"y"')
DYING = CODE.replace("if self.factor == 0", "if inputs['x'][0] == 1")
STREAMING = """
import numpy as np

class Scale:
    def load(self, ctx):
        self.factor = ctx.parameters["factor"]

    def infer_stream(self, inputs):
        yield {"y": np.asarray(inputs["x"] * np.float32(self.factor))}
"""


def shadowed(
    sequence: int, old: Revision, new: Revision, percent: int = 100, *, weight: int = 0, **policy: Any
) -> Assignment:
    shares = {old.name.replace("-", "_"): 100 - weight, new.name.replace("-", "_"): weight}
    shadow = Shadow(revision=new.name, percent=percent, **policy)
    return an_assignment(sequence, old, new, promoted=old.name, **shares).model_copy(update={"shadow": shadow})


def begin(pod: RunningPod, assignment: Assignment) -> None:
    """Pushes it, once what serves serves alone, and waits until copies are taken."""
    assert assignment.shadow is not None
    pod.push(an_assignment(1, assignment.revisions[0]))
    pod.serves(assignment.revisions[0].name)
    assert pod.push(assignment).status_code == 200
    pod.reports(lambda report: of(report, assignment.revisions[1]).policy == assignment.shadow)


def of(report: Report, revision: Revision) -> ShadowReport:
    found = report.revision(revision.name)
    assert found is not None
    assert found.shadow is not None
    return found.shadow


def ask(pod: RunningPod, count: int, *values: float, route: str = PREDICT) -> set[str]:
    """So many requests one after the other: the revisions that answered."""
    with httpx.Client(base_url=pod.url, timeout=30) as client:
        answers = [client.post(route, json={"inputs": {"x": list(values) or [1.0]}}) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return {answer.headers["podium-revision"] for answer in answers}


def judged(pod: RunningPod, revision: Revision, copies: int) -> ShadowReport:
    """What the pod says once so many copies have come to something."""

    def enough(report: Report) -> bool:
        found = of(report, revision)
        return found.compared + found.failed + found.dropped >= copies

    return of(pod.reports(enough), revision)


def test_exactly_the_share_is_copied_and_answers_that_are_alike_match(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(2, "scale-2b", load_hash="another")
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new, 25))
        assert ask(pod, 40) == {"scale-2"}
        found = judged(pod, new, 10)
        assert (found.compared, found.mismatched, found.failed, found.dropped, found.worst) == (10, 0, 0, 0, "")
        answered = pod.report().revision("scale-2b")
        assert answered is not None
        assert answered.counts.succeeded == 0
        assert answered.state == "Ready"


def test_a_difference_is_counted_and_told_by_output_and_size_alone(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        assert ask(pod, 4, 1.0, 50.0) == {"scale-2"}
        found = judged(pod, new, 4)
        assert (found.compared, found.mismatched) == (4, 4)
        assert found.worst == "output 'y' is off by 50 where 0.101 is allowed, 2 of 2 elements are"
        pod.says('"event":"shadow_differs"')
        metrics = httpx.get(f"{pod.url}/metrics").text
        assert 'podium_shadow_requests_total{model="scale",outcome="mismatched",revision="scale-3"} 4.0' in metrics


def test_an_output_may_have_a_tolerance_of_its_own(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new, outputs=(OutputTolerance(name="y", absolute=1.5),)))
        ask(pod, 3)
        assert judged(pod, new, 3).mismatched == 0


def test_a_candidate_that_fails_copies_is_seen_by_no_client_and_quotes_no_request(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3, code=FAILING, inputs=(), outputs=())
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        assert ask(pod, 5) == {"scale-2"}
        found = judged(pod, new, 5)
        assert (found.compared, found.failed) == (0, 5)
        assert found.worst == "it has no answer: its model raised an error"
        assert pod.report().ready


def test_a_candidate_that_takes_other_inputs_fails_what_clients_send(tmp_path: Path) -> None:
    other = ({"name": "z", "dtype": "FP32", "shape": [-1]},)
    old, new = a_revision(2), a_revision(3, code=CODE.replace('inputs["x"]', 'inputs["z"]'), inputs=other)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        ask(pod, 2)
        found = judged(pod, new, 2)
        assert found.failed == 2
        assert "unknown input 'x'" in found.worst


def test_a_candidate_that_hangs_holds_up_nobody_and_what_finds_no_room_is_dropped(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3, code=STUCK)
    new = new.model_copy(update={"timeout_seconds": 600})
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        assert ask(pod, 60) == {"scale-2"}
        found = judged(pod, new, 60 - AT_ONCE - WAITING)
        assert (found.compared, found.failed, found.dropped) == (0, 0, 60 - AT_ONCE - WAITING)
        held = pod.report().revision("scale-3")
        assert held is not None
        assert held.in_flight == AT_ONCE
        pod.push(an_assignment(3, old))  # copies under way are given up: the candidate need not answer to be unloaded
        pod.reports(lambda report: report.revision("scale-3") is None)
        assert ask(pod, 5) == {"scale-2"}


def test_a_candidate_that_keeps_dying_of_copies_is_reported_as_failed(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3, code=DYING)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))

        def given_up() -> bool:
            assert ask(pod, 2) == {"scale-2"}
            found = pod.report().revision("scale-3")
            return found is not None and found.state == "Failed"

        until(given_up, "the candidate to be given up")
        found = pod.report().revision("scale-3")
        assert found is not None
        assert found.last_failure is not None
        assert found.last_failure.reason == "RuntimeCrashLoop"
        assert of(pod.report(), new).failed > 0
        assert pod.report().ready


def test_tensors_of_the_arena_are_compared_and_given_back(tmp_path: Path) -> None:
    wide = {"dtype": "FP32", "shape": [-1, -1]}
    tensors: dict[str, Any] = {"inputs": ({"name": "x", **wide},), "outputs": ({"name": "y", **wide},)}
    old, new = a_revision(2, **tensors), a_revision(3, **tensors)
    values = np.arange(20_000, dtype="<f4")
    entry = {"name": "x", "datatype": "FP32", "shape": [1, values.size]}
    body = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": values.nbytes}}]}).encode()
    headers = {"inference-header-content-length": str(len(body)), "content-type": "application/octet-stream"}
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        for _ in range(6):
            content = body + values.tobytes()
            reply = httpx.post(f"{pod.url}/v2/models/scale/infer", content=content, headers=headers, timeout=30)
            assert reply.status_code == 200, reply.text
        found = judged(pod, new, 6)
        assert (found.compared, found.mismatched) == (6, 6)
        assert "19999 of 20000 elements" in found.worst
        until(lambda: arena_in_use(pod) == 0, "every slot to be free again")


def arena_in_use(pod: RunningPod) -> float:
    lines = httpx.get(f"{pod.url}/metrics").text.splitlines()
    used = [line for line in lines if line.startswith("podium_arena_bytes{") and 'state="used"' in line]
    assert used
    return sum(float(re.sub(r".* ", "", line)) for line in used)


def test_streams_are_not_copied_and_counted_as_saying_nothing(tmp_path: Path) -> None:
    old, new = a_revision(2, code=STREAMING), a_revision(3, code=STREAMING)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        ask(pod, 3, route="/v1/models/scale:stream")
        found = judged(pod, new, 3)
        assert (found.compared, found.dropped) == (0, 3)


def test_beside_a_share_of_the_traffic_only_what_the_old_one_answers_is_copied(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new, weight=25))
        assert ask(pod, 40) == {"scale-2", "scale-3"}
        assert judged(pod, new, 30).compared == 30


def test_counts_begin_anew_with_other_shares_and_stay_when_the_same_is_said_again(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        ask(pod, 3)
        judged(pod, new, 3)
        pod.push(shadowed(3, old, new))
        pod.reports(lambda report: report.applied is not None and report.applied.sequence == 3)
        assert of(pod.report(), new).compared == 3
        pod.push(shadowed(4, old, new, weight=50))
        pod.serves("scale-3")
        assert of(pod.report(), new).compared == 0


def test_without_the_policy_nothing_is_copied_any_more(tmp_path: Path) -> None:
    old, new = a_revision(2), a_revision(3)
    with running_pod(tmp_path) as pod:
        begin(pod, shadowed(2, old, new))
        pod.push(an_assignment(3, old, new))
        pod.reports(lambda report: of(report, new).policy is None)
        ask(pod, 5)
        assert of(pod.report(), new).compared == 0


@pytest.mark.parametrize("factor", [7, 3])
def test_a_pipeline_is_compared_as_a_whole(tmp_path: Path, factor: int) -> None:
    old = a_pipeline("one", a=2, b=3)
    new = a_pipeline("two", a=2, b=factor).model_copy(update={"name": "two"})
    if factor == 3:
        last = new.members[1].model_copy(update={"load_hash": "another"})
        new = new.model_copy(update={"members": (new.members[0], last)})
    with running_pod(tmp_path) as pod:
        pod.push(assigned(1, old))
        pod.serves("one")
        policy = Shadow(revision="two", percent=100)
        pod.push(assigned(2, old, new).model_copy(update={"shadow": policy}))
        pod.reports(lambda report: of(report, new).policy == policy)
        assert {answer(pod) for _ in range(4)} == {6.0}
        found = judged(pod, new, 4)
        assert (found.compared, found.mismatched) == (4, 4 if factor == 7 else 0)
