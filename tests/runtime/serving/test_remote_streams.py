"""Pipelines whose last step streams from a model of another pod: chunks, deadline, trace and the client's leaving."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.runtime.serving.builders import a_revision, an_assignment
from tests.runtime.serving.processes import RunningPod, until
from tests.runtime.serving.remote_pods import WIDE, Reply, a_pod, calling, error, pipeline, remote
from tests.runtime.serving.test_stream_swaps import Reader

from podium.frames import Broken, End, FrameKind, RpcCode, frame, frames_of, message, structured

CODE = """
import asyncio
import os
from pathlib import Path
import numpy as np

class Scale:
    def load(self, ctx):
        self.factor, self.folder = ctx.parameters["factor"], Path(ctx.parameters["folder"])

    async def infer_stream(self, inputs):
        try:
            for step in range(int(inputs["x"][0][0])):
                if step == 13:
                    raise ValueError("thirteen is right out")
                if step == 17:
                    os._exit(3)
                while step == 2 and not (self.folder / "go").exists():
                    await asyncio.sleep(0.01)
                yield {"y": np.full((1, inputs["x"].shape[1]), step * self.factor, np.float32)}
        finally:
            (self.folder / "closed").touch()
"""
STREAM = "/v1/pipelines/both:stream"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def two_pods(folder: Path, code: str = CODE) -> Iterator[tuple[RunningPod, RunningPod]]:
    """The second's pipeline multiplies by five and streams from the first."""
    with a_pod(folder, "far") as far, a_pod(folder, "near") as near:
        far.push(an_assignment(1, a_revision(3, code=code, parameters={"folder": str(folder)}, **WIDE)))
        far.serves("scale-3")
        near.push(pipeline(remote(far.url)))
        near.serves("both-1")
        yield far, near


def body(value: float, width: int = 1, timeout_ms: int = 10_000) -> dict[str, Any]:
    return {"inputs": {"x": [[value] * width]}, "timeout_ms": timeout_ms}


def first_values(events: list[dict[str, Any]]) -> list[float]:
    return [event["outputs"]["y"]["data"][0][0] for event in events if "outputs" in event]


def active(pod: RunningPod) -> float:
    """Streams that the pod's models answer now."""
    lines = httpx.get(pod.url + "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("podium_streams_active{"))


def used(pod: RunningPod) -> float:
    """Bytes of shared memory that are leased."""
    lines = httpx.get(pod.url + "/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("podium_arena_bytes") and 'state="used"' in line]
    assert found
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_chunks_come_from_the_other_pod_as_it_gives_them(tmp_path: Path) -> None:
    with two_pods(tmp_path) as (far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        with client.stream("POST", STREAM, json=body(0.8, 12_000)) as response:
            reader = Reader(response)
            assert first_values([reader.next_data()]) == [0.0], "while the model waits before its third"
            assert first_values([reader.next_data()]) == [3.0]
            (tmp_path / "go").touch()
            *rest, end = reader.rest()
            assert first_values(rest) == [6.0, 9.0]
            assert end == {"chunks": 4}
        until(lambda: active(far) == 0 == active(near), "both streams have ended")
        assert used(near) == 0


def test_a_client_that_leaves_ends_the_stream_in_the_other_pod(tmp_path: Path) -> None:
    with two_pods(tmp_path) as (far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        with client.stream("POST", STREAM, json=body(2)) as response:
            assert first_values([Reader(response).next_data()]) == [0.0]
            assert active(far) == 1
        until((tmp_path / "closed").exists, "the generator is closed")
        until(lambda: active(far) == 0 == active(near), "both streams have ended")


def test_the_deadline_holds_for_the_stream_in_the_other_pod(tmp_path: Path) -> None:
    with two_pods(tmp_path) as (far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        with client.stream("POST", STREAM, json=body(2, timeout_ms=700)) as response:
            last = Reader(response).rest()[-1]
        assert last["error"]["code"] == "deadline_exceeded", last
        assert "step second" in last["error"]["message"]
        until((tmp_path / "closed").exists, "the generator is closed")
        until(lambda: active(far) == 0, "the stream has ended")


def test_a_model_that_fails_in_the_middle_is_named_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with two_pods(tmp_path) as (_far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        with client.stream("POST", STREAM, json=body(3)) as response:
            events = Reader(response).rest()
        assert len(first_values(events)) == 13
        assert "step second: model scale at http://" in events[-1]["error"]["message"]
        assert "thirteen" in events[-1]["error"]["message"]


def test_a_pod_that_is_gone_is_told_before_a_byte_and_in_the_middle(tmp_path: Path) -> None:
    with two_pods(tmp_path) as (far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        with client.stream("POST", STREAM, json=body(2)) as response:
            reader = Reader(response)
            assert first_values([reader.next_data()]) == [0.0]
            far.signal(9)
            last = reader.rest()[-1]
        assert last["error"]["code"] == "remote_unavailable"
        assert last["error"]["retryable"]
        gone = client.post(STREAM, json=body(2))
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "remote_unavailable")


def test_a_model_that_does_not_stream_gives_its_answer_as_the_one_chunk(tmp_path: Path) -> None:
    code = CODE.replace("async def infer_stream", "async def unused").replace(
        "    async def unused",
        '    def infer(self, inputs):\n        return {"y": inputs["x"] * 3}\n\n    async def unused',
    )
    with two_pods(tmp_path, code) as (_far, near), httpx.Client(base_url=near.url, timeout=30) as client:
        for width in (1, 30_000):
            with client.stream("POST", STREAM, json=body(2, width)) as response:
                *chunks, end = Reader(response).rest()
            assert first_values(chunks) == [30.0]
            assert end == {"chunks": 1}
        until(lambda: used(near) == 0, "the answer's slot is given back")


def chunk(value: float, **changes: Any) -> bytes:
    item = {"dtype": "FP32", "shape": [1, 1], "data": b"\0\0\x80\x3f", **changes}
    return message(1, msgspec.msgpack.encode({"outputs": {"y": item}, "model": "scale", "value": value}))


END = structured(FrameKind.END, 1, End(chunks=1))


def test_a_stream_carries_the_time_left_the_request_id_and_the_trace(tmp_path: Path) -> None:
    reply: Reply = (200, {}, chunk(1) + frame(FrameKind.HEARTBEAT, 1) + END)
    with calling(tmp_path, reply) as (near, odd):
        answer = httpx.post(
            near.url + STREAM, json=body(1, timeout_ms=5000), headers={"x-request-id": "mine", "traceparent": TRACE}
        )
        assert '"data":[[1.0]]' in answer.text
    ((path, headers, raw),) = odd.asked
    assert path == "/rpc/scale"
    assert headers["podium-stream"] == "1"
    assert headers["x-request-id"] == "mine"
    assert headers["x-nerva-request-id"] != "mine", "two calls may have one request id"
    assert headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    asked = msgspec.msgpack.decode(list(frames_of(memoryview(raw)))[1].payload)
    assert 0 < asked["timeout_ms"] <= 5000
    assert asked["inputs"]["x"] == {"dtype": "FP32", "shape": [1, 1], "data": b"\0\0\xa0\x40"}


def broken(code: RpcCode, words: str) -> bytes:
    return structured(FrameKind.ERROR, 1, Broken(code, words, retryable=False))


WRONG: list[tuple[Reply, int, str]] = [
    ((503, {"retry-after": "7"}, broken(RpcCode.RESOURCE_EXHAUSTED, "no room")), 503, "no room"),
    ((422, {}, broken(RpcCode.INVALID_ARGUMENT, "x is wrong")), 422, "x is wrong"),
    ((500, {}, b"<html>"), 502, "not made of frames"),
    ((200, {}, broken(RpcCode.DEADLINE_EXCEEDED, "too late")), 504, "too late"),
    ((200, {}, broken(RpcCode.UNAVAILABLE, "gone")), 503, "gone"),
    ((200, {}, b"x" * 64), 502, "not made of frames"),
    ((200, {}, b""), 503, "before its end"),
    ((200, {}, END), 502, "sent 1 chunks, and 0 came"),
    ((200, {}, chunk(1, data=b"\0") + END), 502, "not one"),
    ((200, {}, chunk(1, dtype="FP64", data=b"\0" * 8) + END), 502, "expected y FP32"),
    ((200, {}, message(1, b"\x81\xa1a") + END), 502, "not one"),
    ((200, {}, message(1, bytes(3 << 20)) + END), 502, "more than"),
]


def test_what_is_no_stream_is_an_error_that_names_the_model(tmp_path: Path) -> None:
    with calling(tmp_path, *(reply for reply, _, _ in WRONG)) as (near, _odd):
        for _, status, said in WRONG:
            refused = httpx.post(near.url + STREAM, json=body(1), timeout=30)
            assert refused.status_code == status, refused.text
            assert said in error(refused)
            assert "step second: model scale at http://" in error(refused)
        assert used(near) == 0
