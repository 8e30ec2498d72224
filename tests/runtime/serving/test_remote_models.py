"""Steps that call models of other pods: real pods on loopback, and a server that answers as it should not."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.runtime.serving.builders import SLOW_CODE, a_revision, an_assignment
from tests.runtime.serving.processes import RunningPod
from tests.runtime.serving.remote_pods import WIDE, Reply, a_pod, calling, error, pipeline, remote

SLOW = SLOW_CODE.replace('inputs["x"][0]', 'inputs["x"][0][0]')


def ask(pod: RunningPod, *values: float, timeout_ms: int = 10_000, **headers: str) -> httpx.Response:
    body = {"inputs": {"x": [list(values)]}, "timeout_ms": timeout_ms}
    return httpx.post(f"{pod.url}/v1/pipelines/both:run", json=body, headers=headers, timeout=30)


def test_a_step_calls_the_pods_of_a_model_and_nothing_is_loaded_for_it(tmp_path: Path) -> None:
    with a_pod(tmp_path, "far") as far, a_pod(tmp_path, "near") as near:
        far.push(an_assignment(1, a_revision(3, **WIDE)))
        far.serves("scale-3")
        near.push(pipeline(remote(far.url)))
        report = near.serves("both-1")
        assert [member.name for member in report.revisions[0].members] == ["near"]
        for size in (1, 30_000):
            answer = ask(near, *range(size))
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"]["y"]["data"] == [[15.0 * n for n in range(size)]]
        far.push(an_assignment(2, a_revision(4, **WIDE)))  # its weights change without the pipeline
        far.serves("scale-4")
        assert ask(near, 1).json()["outputs"]["y"]["data"] == [[20.0]]
        assert near.report().revisions[0].name == "both-1"


def test_errors_of_the_other_pods_name_the_step_and_the_model(tmp_path: Path) -> None:
    with a_pod(tmp_path, "far") as far, a_pod(tmp_path, "near") as near:
        near.push(pipeline(remote(far.url)))
        near.serves("both-1")
        absent = ask(near, 1)
        assert absent.status_code == 502
        assert "step second: model scale at http://" in error(absent)
        assert "answered 404" in error(absent)
        far.push(an_assignment(1, a_revision(3, code=SLOW, **WIDE)))
        far.serves("scale-3")
        late = ask(near, 20, timeout_ms=500)  # ten seconds of work
        assert late.status_code == 504
        assert "step second" in error(late)
        far.stop()
        gone = ask(near, 1)
        assert gone.status_code == 503
        assert gone.json()["error"]["code"] == "remote_unavailable"
        assert gone.json()["error"]["retryable"]
        assert "cannot be reached" in error(gone)


def binary(head: object, raw: bytes = b"") -> Reply:
    text = json.dumps(head).encode()
    return 200, {"inference-header-content-length": str(len(text))}, text + raw


def y(size: int, shape: list[int] | None = None, datatype: str = "FP32") -> dict[str, Any]:
    entry = {"name": "y", "datatype": datatype, "shape": shape or [1, 1], "parameters": {"binary_data_size": size}}
    return {"outputs": [entry]}


GOOD = binary(y(4), b"\0\0\x80\x3f")
BUSY: Reply = (503, {"retry-after": "7"}, json.dumps({"error": "no room"}).encode())


def test_a_call_carries_the_deadline_the_request_id_and_the_trace(tmp_path: Path) -> None:
    with calling(tmp_path, GOOD) as (near, odd):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert ask(near, 1, timeout_ms=5000, **{"x-request-id": "mine", "traceparent": trace}).status_code == 200
    ((path, headers, body),) = odd.asked
    assert path == "/v2/models/scale/infer"
    assert headers["x-request-id"] == "mine"
    assert headers["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert headers["traceparent"].split("-")[2] != "b7ad6b7169203331", "the parent is the pipeline's own span"
    head = json.loads(body[: int(headers["inference-header-content-length"])])
    assert 0 < head["parameters"]["timeout"] <= 5_000_000
    assert head["inputs"][0]["parameters"]["binary_data_size"] == 4


def test_retry_after_is_passed_on(tmp_path: Path) -> None:
    with calling(tmp_path, BUSY, retries=3) as (near, odd):
        busy = ask(near, 1)
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "7")
    assert "no room" in error(busy)
    assert len(odd.asked) == 1, "it may have begun, and is not idempotent"


def test_an_idempotent_model_is_asked_again_as_often_as_the_step_says(tmp_path: Path) -> None:
    with calling(tmp_path, BUSY, GOOD, idempotent=True, retries=1) as (near, odd):
        assert ask(near, 1).status_code == 200
    assert len(odd.asked) == 2


def test_what_is_no_answer_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    wrong: list[tuple[Reply, str]] = [
        ((200, {}, b"{}"), "no answer of the Open Inference Protocol"),
        (binary({"outputs": [{"name": "y"}]}), "not of the Open Inference Protocol"),
        (binary(y(8), b"\0" * 8), "not what it declares"),
        (binary(y(4), b"\0" * 5), "longer than its outputs"),
        (binary(y(8192, [1, 2048]), b"\0" * 9), "ended before"),
        (binary(y(1 << 40, [1, 1 << 38])), "no room"),
        (binary(y(8, [1, 1], "FP64"), b"\0" * 8), "expected y FP32"),
        ((200, {"inference-header-content-length": "9999999"}, b"{}"), "JSON part of 9999999"),
        ((500, {}, b"<html>"), "answered 500: <html>"),
        (binary({"outputs": []}), "expected also y"),
    ]
    with calling(tmp_path, *(reply for reply, _ in wrong), GOOD) as (near, _odd):
        for _, said in wrong:
            refused = ask(near, 1)
            assert refused.status_code in (500, 502), refused.text
            assert said in error(refused)
            assert "step second" in error(refused)
        assert ask(near, 1).json()["outputs"]["y"]["data"] == [[1.0]]
        used = [
            line
            for line in httpx.get(near.url + "/metrics").text.splitlines()
            if line.startswith("podium_arena_bytes") and 'state="used"' in line
        ]
        assert used
        assert all(line.endswith(" 0.0") for line in used)


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_input_is_the_requests_fault(tmp_path: Path, status: int) -> None:
    refusal = (status, {}, json.dumps({"error": "input 'x' is wrong"}).encode())
    with calling(tmp_path, refusal) as (near, _odd):
        refused = ask(near, 1)
    assert refused.status_code == 422
    assert "input 'x' is wrong" in error(refused)
