"""`/rpc` of a real server: calls at once and in chunks, what is refused, and calls that are cancelled."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import numpy as np
import pytest
from tests.runtime.http.test_pipelines import pipelines
from tests.runtime.serving.processes import Server, until

from podium.client import ClientError
from podium.client.rpc import RpcClient
from podium.frames import Broken, End, FrameKind, Open, frame, frames_of, message, read, structured

__all__ = ["pipelines"]


@pytest.fixture
def rpc(server: Server) -> Iterator[RpcClient]:
    with RpcClient(server.url, timeout_s=30) as made:
        yield made


def body(name: str, document: object, number: int = 7) -> bytes:
    return b"".join(
        (
            structured(FrameKind.OPEN, number, Open(name)),
            message(number, msgspec.msgpack.encode(document)),
            structured(FrameKind.END, number, End()),
        )
    )


SCALE = {"inputs": {"x": [[1.0, 2.0, 3.0]]}}


def post(server: Server, content: bytes, name: str = "scale", **headers: str) -> httpx.Response:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.post(f"{server.url}/rpc/{name}", content=content, headers=given, timeout=30)


def refusal(response: httpx.Response) -> Broken:
    (only,) = frames_of(memoryview(response.content))
    assert only.kind is FrameKind.ERROR
    return read(only, Broken)


def test_a_model_and_a_pipeline_answer(rpc: RpcClient) -> None:
    x = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_array_equal(rpc.call("scale", {"x": x})["y"], x * 2)
    answer = rpc.call("route", {"text": np.array(["hi"], object)})
    assert (answer["label"].tolist(), answer["loud"].tolist()) == ([b"hard"], [b"HI"])


def test_a_message_of_many_frames_goes_both_ways(rpc: RpcClient) -> None:
    x = np.arange(5 << 18, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(rpc.call("echo", {"x": x})["x"], x)


def test_a_stream_comes_in_messages_and_ends_with_their_count(pipelines: Server) -> None:
    inputs = {"x": np.ones(1, np.float32), "n": np.array([3]), "mode": np.array(["talk"], object)}
    with RpcClient(pipelines.url) as rpc:
        assert [chunk["word"].tolist() for chunk in rpc.stream("talk", inputs)] == [[b"w0"], [b"w1"], [b"w2"]]
        with pytest.raises(ClientError, match=r"(?s)step loud.*thirteen"):
            list(rpc.stream("talk", {**inputs, "n": np.array([20])}))


def test_the_seeds_headers_and_media_type_are_taken(server: Server) -> None:
    headers = {
        "content_type": "application/x-nerva-rpc",
        "x_nerva_stream": "0",
        "x_nerva_deadline_ms": str(int(time.time() * 1000) + 20_000),
        "x_nerva_request_id": "7",
    }
    response = post(server, body("scale", SCALE), **headers)
    assert response.status_code == 200, response.content
    data, end = frames_of(memoryview(response.content))
    assert (data.kind, data.request, read(end, End).status) == (FrameKind.DATA, 7, 0)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code", "said"),
    [
        (b"", {}, 422, 3, "no frame"),
        (b"nonsense that is longer than a header of frames", {}, 422, 3, "expected 0x4e56"),
        (body("echo", SCALE), {}, 422, 3, "OPEN names 'echo'"),
        (body("scale", SCALE), {"podium_stream": "3"}, 422, 3, "expected 0, 1 or 2"),
        (body("scale", SCALE), {"podium_stream": "1"}, 406, 3, "does not stream"),
        (body("scale", SCALE), {"podium_deadline_ms": "soon"}, 422, 3, "milliseconds since 1970"),
        (body("scale", SCALE), {"podium_deadline_ms": "1000"}, 504, 4, "had passed"),
        (body("scale", SCALE), {"content_type": "text/html"}, 415, 3, "text/html"),
        (body("scale", {"inputs": {"z": [1]}}), {}, 422, 3, "unknown input 'z'"),
        (body("scale", [1]), {}, 422, 3, "not a msgpack object"),
        (structured(FrameKind.OPEN, 7, Open("scale")) + frame(FrameKind.DATA, 7, b"\xc1"), {}, 422, 3, "no END"),
    ],
)
def test_what_is_wrong_is_refused_with_a_status_and_a_frame(
    server: Server, content: bytes, headers: dict[str, str], status: int, code: int, said: str
) -> None:
    response = post(server, content, **headers)
    told = refusal(response)
    assert (response.status_code, told.code, told.retryable) == (status, code, False)
    assert said in told.message
    assert response.headers["content-type"] == "application/x-podium-rpc"


def test_an_unknown_name_and_an_oversize_body_are_refused(server: Server) -> None:
    assert refusal(post(server, body("nobody", SCALE), "nobody")).reason == "not_found"
    large = post(server, bytes((64 << 20) + 1))
    assert large.status_code == 413
    assert refusal(large).reason == "too_large"


def test_where_there_is_no_room_the_frame_says_when_to_ask_again(server: Server) -> None:
    """One request runs, one waits: of four at once some are refused."""
    slow = body("moody", {"inputs": {"order": [3]}})
    with ThreadPoolExecutor(4) as pool:
        answers = [future.result() for future in [pool.submit(post, server, slow, "moody") for _ in range(4)]]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert (refusal(answer).code, refusal(answer).retryable) == (8, True)


def test_a_call_is_cancelled_by_its_id(server: Server, rpc: RpcClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rpc.call, "moody", {"order": np.array([3])}, request_id="to-cancel")
        until(lambda: rpc.cancel("to-cancel"), "the call is under way, and is cancelled")
        with pytest.raises(ClientError, match="499 the call was cancelled") as caught:
            running.result()
    assert caught.value.code == "cancelled"
    assert not rpc.cancel("to-cancel"), "it is no more"


def test_a_stream_is_cancelled_in_its_middle(pipelines: Server) -> None:
    endless = {"x": np.ones(1, np.float32), "n": np.array([12]), "mode": np.array(["slowly"], object)}
    with RpcClient(pipelines.url) as rpc:
        chunks = rpc.stream("talk", endless, request_id="a-stream")
        assert next(chunks)["seen"].tolist() == [2.0]
        assert rpc.cancel("a-stream")
        with pytest.raises(ClientError, match="the call was cancelled"):
            list(chunks)


def test_calls_that_are_cancelled_as_they_are_answered_end_whole_or_cancelled(server: Server) -> None:
    """Whenever the cancelling comes: no answer is cut, and the connection goes on."""
    with RpcClient(server.url) as asking, RpcClient(server.url) as cancelling, ThreadPoolExecutor(1) as pool:
        x = np.ones((1, 200_000), np.float32)
        for number in range(30):
            running = pool.submit(asking.call, "echo", {"x": x}, request_id=f"race-{number}")
            while not running.done():
                cancelling.cancel(f"race-{number}")
            try:
                np.testing.assert_array_equal(running.result()["x"], x)
            except ClientError as error:
                assert error.code == "cancelled"  # noqa: PT017 - either end is right
    assert not [line for line in server.lines if "Traceback" in line or "request_broke" in line]


def test_one_id_names_one_call_at_a_time(server: Server, rpc: RpcClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rpc.call, "moody", {"order": np.array([3])}, request_id="one")

        def second() -> bool:
            response = post(server, body("scale", SCALE), x_request_id="one")
            return response.status_code == 422 and "under way" in refusal(response).message

        until(second, "the second call of one id is refused")
        assert running.result()["order"].tolist() == [3]
