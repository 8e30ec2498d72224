"""A pod, its operator's pushes and its mount: real processes, real sockets, clients that never pause."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.processes import tree
from e2e.probers.ledger import Entry, Ledger
from e2e.probers.load import NUMBER, Load, Sender
from tests.runtime.serving.builders import CODE, SLOW_CODE, a_revision, an_assignment
from tests.runtime.serving.processes import KEY, RunningPod, running_pod, until, write_mount

from podium.serving.workers.priority import SERVING
from podium_crds.assignment import Batching
from podium_crds.batching import PaddingSpec, RaggedSpec
from podium_crds.keys import ADMIN_REPORT_PATH
from podium_crds.tensors import DType, TensorSpec
from podium_crds.token import admin_token

PREDICT = "/v1/models/scale:predict"
SCALES = {"scale-2": 2.0, "scale-3": 3.0, "scale-2b": 2.0}


def a_load(pod: RunningPod, rate: float = 60.0) -> Load:
    body = json.dumps({"inputs": {"x": [NUMBER]}}).replace(f'"{NUMBER}"', NUMBER)
    return Load(host="127.0.0.1", port=pod.port, path=PREDICT, body=body, rate_per_s=rate, clients=10, timeout_s=15)


def answer(body: str) -> float:
    return float(json.loads(body)["outputs"]["y"]["data"][0])


class Clients:
    """Ten clients that keep their connections and keep asking, and the books about them."""

    def __init__(self, pod: RunningPod, rate: float = 60.0) -> None:
        self.entries: list[Entry] = []
        self._sender = Sender(a_load(pod, rate), self.entries.append)

    async def __aenter__(self) -> "Clients":
        self._task = asyncio.create_task(self._sender.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._sender.stop()
        await self._task

    async def answered_by(self, revision: str, count: int = 20) -> None:
        await asyncio.to_thread(
            until, lambda: sum(entry.revision == revision for entry in self.entries) >= count, f"answers of {revision}"
        )

    def ledger(self) -> Ledger:
        return Ledger(self.entries, self._task.result())


def assert_nothing_lost(ledger: Ledger) -> None:
    assert ledger.lost == 0
    assert not ledger.failed, ledger.failed[0].told()
    assert not ledger.mismatched(answer, SCALES)


async def test_a_swap_under_load_fails_nothing_and_every_body_matches_its_revision(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        first, second = a_revision(2), a_revision(3)
        assert pod.push(an_assignment(1, first)).status_code == 200
        await asyncio.to_thread(pod.serves, "scale-2")
        async with Clients(pod) as clients:
            await clients.answered_by("scale-2")
            pod.push(an_assignment(2, first, second))  # the candidate is loaded, and takes nothing
            await asyncio.to_thread(
                pod.reports, lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Ready"
            )
            pod.push(an_assignment(3, second, first))
            await clients.answered_by("scale-3")
            pod.push(an_assignment(4, first, second))  # and back, in one flip
            await clients.answered_by("scale-2", 1 + sum(e.revision == "scale-2" for e in clients.entries))
        ledger = clients.ledger()
        assert_nothing_lost(ledger)
        assert set(ledger.by_revision()) == {"scale-2", "scale-3"}


async def test_a_new_revision_warms_up_at_the_sizes_that_batches_have_now(tmp_path: Path) -> None:
    log = tmp_path / "rows"
    noted = f"with open({str(log)!r}, 'a') as log:\n            log.write(f'{{len(inputs[\"x\"])}} ')\n        "
    tells = CODE.replace("if self.factor == 0", noted + "if self.factor == 0")
    with running_pod(tmp_path) as pod:
        first, second = a_revision(2), a_revision(3, code=tells)
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "scale-2")
        async with httpx.AsyncClient(base_url=pod.url) as client:
            for rows in (5, 5, 3):
                (await client.post(PREDICT, json={"inputs": {"x": [1.0] * rows}})).raise_for_status()
        pod.push(an_assignment(2, first, second))
        await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Ready")
    assert log.read_text().split() == ["1", "3", "5", "8"]


LENGTHS_CODE = """
import json
import numpy as np
from podium import Model

class Scale(Model):
    def load(self, ctx):
        self.log = ctx.parameters.get("log")

    def infer(self, inputs):
        ids = inputs["ids"]
        if self.log:
            with open(self.log, "a") as log:
                log.write(json.dumps(list(ids.shape)) + "\\n")
        return {"y": ids.sum(axis=tuple(range(1, ids.ndim))) if ids.ndim > 1 else ids}
"""
IDS = (TensorSpec(name="ids", dtype=DType.INT64, shape=(-1, -1)),)
SUMS = (TensorSpec(name="y", dtype=DType.INT64, shape=(-1,)),)


@pytest.mark.parametrize("mode", ["padding", "ragged"])
async def test_a_new_revision_warms_up_at_the_lengths_that_batches_have_now(tmp_path: Path, mode: str) -> None:
    log = tmp_path / "shapes"
    padding, ragged = (PaddingSpec(input="ids"),), RaggedSpec(inputs=("ids",), lengths_input="lengths", outputs=("y",))
    variable = {"padding": padding} if mode == "padding" else {"ragged": ragged}
    fields: dict[str, Any] = {"code": LENGTHS_CODE, "inputs": IDS, "outputs": SUMS if mode == "padding" else ()}
    with running_pod(tmp_path) as pod:
        first = a_revision(2, **fields, batching=Batching(max_batch_size=8, **variable))
        few = Batching(max_batch_size=8, max_batch_elements=64, **variable)
        second = a_revision(3, **fields, batching=few, parameters={"log": str(log)})
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "scale-2")
        async with httpx.AsyncClient(base_url=pod.url) as client:
            for length in (40, 10, 11, 10):  # 10 and 11 are of one class
                (await client.post(PREDICT, json={"inputs": {"ids": [[1] * length]}})).raise_for_status()
        pod.push(an_assignment(2, first, second))
        await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Ready")
    shapes = [tuple(json.loads(line)) for line in log.read_text().splitlines()]
    expected = [(1, 1), (8, 1), (1, 11), (5, 11), (1, 40)]  # of 64 elements a batch may have five rows of 11, one of 40
    assert shapes == (expected if mode == "padding" else [(rows * length,) for rows, length in expected])


async def test_lengths_that_there_is_no_time_for_are_left_out_of_a_warm_up_which_does_not_fail(tmp_path: Path) -> None:
    log, lengths = tmp_path / "shapes", (10, 13, 17, 22, 28, 36, 46, 60)
    slow = LENGTHS_CODE.replace("import json", "import json, time").replace(
        "if self.log:", "if self.log:\n            time.sleep(0.4)"
    )
    fields: dict[str, Any] = {
        "inputs": IDS,
        "outputs": SUMS,
        "batching": Batching(max_batch_size=8, padding=(PaddingSpec(input="ids"),)),
    }
    with running_pod(tmp_path) as pod:
        first = a_revision(2, code=LENGTHS_CODE, **fields)
        second = a_revision(3, code=slow, **fields, parameters={"log": str(log)}, warmup_timeout_seconds=4)
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "scale-2")
        async with httpx.AsyncClient(base_url=pod.url) as client:
            for length in lengths:
                (await client.post(PREDICT, json={"inputs": {"ids": [[1] * length]}})).raise_for_status()
        pod.push(an_assignment(2, first, second))
        await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Ready")
    assert 2 < len(log.read_text().splitlines()) < 2 + 2 * len(lengths)


async def test_traffic_is_split_exactly_by_weight(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        first, second = a_revision(2), a_revision(3)
        pod.push(an_assignment(1, first, second, scale_2=75, scale_3=25))
        await asyncio.to_thread(pod.serves, "scale-3")
        async with httpx.AsyncClient(base_url=pod.url) as client:
            seen = [
                (await client.post(PREDICT, json={"inputs": {"x": [1.0]}})).headers["podium-revision"]
                for _ in range(40)
            ]
            by_version = await client.post("/v1/models/scale/versions/3:predict", json={"inputs": {"x": [1.0]}})
        assert seen.count("scale-2") == 30
        assert by_version.json()["outputs"]["y"]["data"] == [3.0]


async def test_a_request_finishes_on_the_revision_that_it_began_with(tmp_path: Path) -> None:
    first, second = a_revision(2, code=SLOW_CODE), a_revision(3)
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, first, second))
        pod.reports(lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Ready")
        async with httpx.AsyncClient(base_url=pod.url, timeout=30) as client:
            slow = asyncio.create_task(client.post(PREDICT, json={"inputs": {"x": [30.0]}}))
            await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-2").in_flight == 1)
            pod.push(an_assignment(2, second))
            quick = await client.post(PREDICT, json={"inputs": {"x": [1.0]}})
            draining = pod.report().revision("scale-2")
            answer = await slow
        assert quick.headers["podium-revision"] == "scale-3"
        assert (answer.headers["podium-revision"], answer.json()["outputs"]["y"]["data"]) == ("scale-2", [60.0])
        assert draining is not None
        assert draining.state == "Draining"
        await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-2") is None)


async def test_a_tuning_change_keeps_the_workers(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        before = await asyncio.to_thread(pod.serves, "scale-2")
        async with Clients(pod) as clients:
            await clients.answered_by("scale-2")
            pod.push(an_assignment(2, a_revision(2, "scale-2b", batch=4)))
            await clients.answered_by("scale-2b")
            after = await asyncio.to_thread(pod.reports, lambda r: r.revision("scale-2") is None)
        assert_nothing_lost(clients.ledger())
        async with httpx.AsyncClient(base_url=pod.url) as scraper:
            pages = [(await scraper.get("/metrics")).text for _ in range(4)]
        assert 'revision="scale-2"' not in pages[-1]
        assert 'revision="scale-2b"' in pages[-1]
        assert before.revisions[0].members[0].pids == after.revisions[0].members[0].pids != ()


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (a_revision(3, parameters={"fail": True}), "LoadFailed"),
        (a_revision(3, smoke_test={"inputs": {"x": [1.0]}, "expect": {"y": [4.0]}}), "SmokeTestFailed"),
        (a_revision(3, outputs=({"name": "z", "dtype": "FP32", "shape": [-1]},)), "ContractMismatch"),
        (a_revision(3, artifact={"uri": "file:///nowhere/at/all"}), "ArtifactUnavailable"),
        (a_revision(3, artifact={"files": {"scale.py": ""}, "digest": "sha256:" + "0" * 64}), "ArtifactDigestMismatch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_candidate_that_fails_leaves_the_old_one_serving(
    tmp_path: Path, candidate: object, reason: str
) -> None:
    with running_pod(tmp_path, PODIUM_ARTIFACT_ATTEMPTS="1") as pod:
        first = a_revision(2)
        pod.push(an_assignment(1, first))
        await asyncio.to_thread(pod.serves, "scale-2")
        async with Clients(pod) as clients:
            pod.push(an_assignment(2, first, candidate, promoted="scale-2"))  # type: ignore[arg-type]
            report = await asyncio.to_thread(
                pod.reports, lambda r: r.revision("scale-3") and r.revision("scale-3").state == "Failed"
            )
            await clients.answered_by("scale-2")
        failed = report.revision("scale-3")
        assert failed is not None
        assert failed.last_failure is not None
        assert failed.last_failure.reason == reason
        assert report.ready
        assert_nothing_lost(clients.ledger())


def test_a_superseded_load_is_given_up(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        first = a_revision(2)
        pod.push(an_assignment(1, first))
        pod.serves("scale-2")
        pod.push(an_assignment(2, first, a_revision(4, parameters={"load_seconds": 600})))
        pod.reports(lambda r: r.revision("scale-4") and r.revision("scale-4").state == "Loading")
        pod.push(an_assignment(3, a_revision(3), first))
        report = pod.serves("scale-3")
        assert pod.reports(lambda r: r.revision("scale-4") is None).ready
        assert report.applied is not None
        assert report.applied.sequence == 3


async def test_sigterm_under_load_loses_nothing_and_ends_with_status_0(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        await asyncio.to_thread(pod.serves, "scale-2")
        async with Clients(pod, rate=100) as clients:
            await clients.answered_by("scale-2")
            pod.signal(signal.SIGTERM)
            await asyncio.to_thread(pod.says, "drain_begun")
            async with httpx.AsyncClient() as health:
                ready = await health.get(pod.url + "/v2/health/ready")
            closing = any("drain_closing" in line for line in pod.lines)
            assert closing or ready.status_code == 200  # endpoints leave on their own
            await asyncio.to_thread(pod.ends)
        refused = [e for e in clients.entries if e.error and e.error.startswith("connect")]
        others = [e for e in clients.entries if not e.ok and e not in refused]
        assert refused, "the clients went on after the listener had closed"
        assert not others, others[0].told()
        assert max(e.sent_at for e in clients.entries if e.ok) > min(e.sent_at for e in clients.entries) + 1
        assert pod.ends() == 0


async def test_answers_carry_connection_close_once_propagation_is_over(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        pod.serves("scale-2")
        async with httpx.AsyncClient(base_url=pod.url) as client:
            assert "connection" not in (await client.post(PREDICT, json={"inputs": {"x": [1.0]}})).headers
            pod.signal(signal.SIGTERM)
            closing = None
            while closing is None:
                answer = await client.post(PREDICT, json={"inputs": {"x": [1.0]}})
                assert answer.status_code == 200
                closing = answer.headers.get("connection")
                ready = (await client.get("/v2/health/ready")).status_code
            assert closing == "close"
            assert ready == 503


def test_a_restarted_container_comes_up_promoted_though_the_mount_lags(tmp_path: Path) -> None:
    first, second, candidate = a_revision(2), a_revision(3), a_revision(4)
    write_mount(tmp_path, an_assignment(1, first))
    with running_pod(tmp_path) as pod:
        pod.serves("scale-2")
        pod.push(an_assignment(5, second, first, candidate, scale_3=90, scale_4=10))
        pod.serves("scale-3")
        pod.serves("scale-4")
        pod.signal(signal.SIGKILL)
        pod.ends()
    with running_pod(tmp_path) as pod:
        report = pod.serves("scale-3")
        assert (report.applied.sequence, report.mounted.sequence) == (5, 1)  # type: ignore[union-attr]
        assert report.revision("scale-4") is None
        assert pod.push(an_assignment(4, first)).status_code == 409


def test_unloading_waits_for_no_mount_and_a_newer_mount_is_taken_on(tmp_path: Path) -> None:
    first, second = a_revision(2), a_revision(3)
    write_mount(tmp_path, an_assignment(1, first))
    with running_pod(tmp_path) as pod:
        pod.serves("scale-2")
        pod.push(an_assignment(2, second))
        pod.serves("scale-3")
        gone = pod.reports(lambda r: r.revision("scale-2") is None)
        assert gone.mounted is not None
        assert gone.mounted.sequence == 1  # lags behind, and nothing waited for it
        pod.mount(an_assignment(3, first))
        assert pod.serves("scale-2").applied.sequence == 3  # type: ignore[union-attr]


def test_a_promoted_revision_that_keeps_dying_gives_its_traffic_to_the_warm_one(tmp_path: Path) -> None:
    good = a_revision(2)
    bad = a_revision(3, inputs=(), idempotent=False)
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, good))
        pod.serves("scale-2")
        pod.push(an_assignment(2, bad, good))
        report = pod.serves("scale-3")
        found = report.revision("scale-3")
        assert found is not None
        victims: set[int] = set()

        def gone_bad() -> bool:
            now = pod.report()
            revision = now.revision("scale-3")
            for pid in revision.members[0].pids if revision and revision.members else ():
                if pid not in victims:
                    victims.add(pid)
                    os.kill(pid, signal.SIGKILL)
            active = now.revision("scale-2")
            return active is not None and active.state == "Active"

        until(gone_bad, "the warm revision takes over")
        answer = httpx.post(pod.url + PREDICT, json={"inputs": {"x": [1.0]}})
        assert answer.headers["podium-revision"] == "scale-2"
        series = httpx.get(pod.url + "/metrics").text
        labels = 'member="scale",model="scale",revision="scale-3"'
        assert f"podium_workers_crash_looping{{{labels}}} 1.0" in series
        failed = pod.report().revision("scale-3")
        assert failed is not None
        assert (failed.state, failed.last_failure and failed.last_failure.reason) == ("Failed", "RuntimeCrashLoop")


def test_a_candidate_runs_behind_what_serves_until_it_takes_traffic(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        serving = pod.serves("scale-2").revisions[0].members[0].pids[0]
        pod.push(an_assignment(2, a_revision(2), a_revision(3)))
        ready = pod.reports(lambda r: (found := r.revision("scale-3")) is not None and found.state == "Ready")
        candidate = ready.revision("scale-3").members[0].pids[0]  # type: ignore[union-attr]
        assert [is_held_back(pid) for pid in (serving, candidate)] == [False, True]
        pod.push(an_assignment(3, a_revision(2), a_revision(3), scale_2=90, scale_3=10))
        pod.serves("scale-3")
        assert not is_held_back(candidate), "a canary is measured as it would serve"


def test_what_is_promoted_before_it_is_loaded_runs_behind_what_serves_meanwhile(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        pod.serves("scale-2")
        before = set(tree(pod.pid))
        pod.push(an_assignment(2, a_revision(3, parameters={"load_seconds": 2}), a_revision(2)))
        [loading] = until(lambda: {pid for pid in set(tree(pod.pid)) - before if is_held_back(pid)}, "a held back load")
        found = pod.serves("scale-3").revision("scale-3")
        assert found is not None
        assert found.members[0].pids == (loading,)
        assert not is_held_back(loading)


def is_held_back(pid: int) -> bool:
    return (
        os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0) + SERVING
        or os.sched_getscheduler(pid) == os.SCHED_BATCH
    )


def test_readiness_falls_while_workers_stay_down_and_comes_back(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        pod.push(an_assignment(1, a_revision(2)))
        pod.serves("scale-2")
        assert pod.report().ready

        def down_for_too_long() -> bool:
            report = pod.report()
            for member in report.revisions[0].members:
                for pid in member.pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return httpx.get(pod.url + "/v2/health/ready").status_code == 503

        until(down_for_too_long, "readiness falls")
        pod.reports(lambda r: r.ready)
        assert httpx.post(pod.url + PREDICT, json={"inputs": {"x": [1.0]}}).json()["outputs"]["y"]["data"] == [2.0]


def test_the_admin_port_refuses_what_is_not_for_this_pod(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        assignment = an_assignment(3, a_revision(2))
        assert pod.push(assignment, key=b"another key of sufficient length").status_code == 401
        assert pod.push(assignment, uid="uid-2").status_code == 409
        assert pod.push(assignment).status_code == 200
        assert pod.push(assignment).status_code == 200
        assert pod.push(an_assignment(2, a_revision(3))).status_code == 409
        assert pod.push(an_assignment(3, a_revision(3))).status_code == 409
        assert httpx.get(pod.admin_url + ADMIN_REPORT_PATH).status_code == 401
        huge = httpx.put(
            pod.admin_url + "/admin/v1/assignment",
            content=b"x" * (513 * 1024),
            headers={"authorization": f"Bearer {admin_token(KEY, pod.uid)}"},
        )
        assert huge.status_code == 413


def test_a_rotated_admin_key_is_taken_without_a_restart(tmp_path: Path) -> None:
    with running_pod(tmp_path) as pod:
        fresh = b"the second admin key, as long too"
        assert pod.push(an_assignment(1, a_revision(2)), key=fresh).status_code == 401
        (tmp_path / "keys" / "previous").write_bytes(KEY)
        (tmp_path / "keys" / "current").write_bytes(fresh)
        assert pod.push(an_assignment(1, a_revision(2)), key=fresh).status_code == 200
        assert pod.push(an_assignment(1, a_revision(2)), key=KEY).status_code == 200


def test_a_digest_pinned_after_other_bytes_were_loaded_is_a_mismatch_and_the_old_goes_on(tmp_path: Path) -> None:
    other = "sha256:" + "0" * 64
    files = {"scale.py": CODE}
    with running_pod(tmp_path, PODIUM_ARTIFACT_ATTEMPTS="1") as pod:
        pod.push(an_assignment(1, a_revision(2)))
        before = pod.serves("scale-2").revisions[0].members[0]
        assert before.digest is not None
        pod.push(an_assignment(2, a_revision(2, artifact={"files": files, "digest": before.digest})))
        assert pod.report().revisions[0].members[0].pids == before.pids
        pod.push(an_assignment(3, a_revision(2, artifact={"files": files, "digest": other})))
        report = pod.reports(lambda r: [revision.state for revision in r.revisions] == ["Active", "Failed"])
        assert report.revisions[1].last_failure is not None
        assert report.revisions[1].last_failure.reason == "ArtifactDigestMismatch"
        assert report.ready
