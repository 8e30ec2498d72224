"""Open Inference Protocol v2, asked by the protocol's own client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tests.runtime.serving.processes import Server
from tritonclient.utils import InferenceServerException


@pytest.fixture
def oip(server: Server) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def an_input(name: str, array: np.ndarray[Any, Any], dtype: str, *, binary: bool) -> Any:
    made = triton.InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_the_real_client_sees_health_and_metadata(oip: Any) -> None:
    assert oip.is_server_live()
    assert oip.is_server_ready()
    assert oip.is_model_ready("scale")
    assert not oip.is_model_ready("nothing")
    assert "binary_tensor_data" in oip.get_server_metadata()["extensions"]
    metadata = oip.get_model_metadata("upper", "2.5")
    assert metadata["versions"] == ["2.5"]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_numbers_in_every_combination_of_binary_and_json(oip: Any, binary_in: bool, binary_out: bool) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = oip.infer("scale", [an_input("x", x, "FP32", binary=binary_in)], outputs=outputs, request_id="r-1")
    np.testing.assert_array_equal(result.as_numpy("y"), x * 2)
    assert result.get_response()["id"] == "r-1"


@pytest.mark.parametrize("binary", [True, False])
def test_text_goes_both_ways(oip: Any, binary: bool) -> None:
    text = np.array([b"ab", b"", "é".encode()], dtype=object)
    result = oip.infer("upper", [an_input("text", text, "BYTES", binary=binary)], model_version="2.5")
    assert [bytes(item) if isinstance(item, bytes) else item.encode() for item in result.as_numpy("upper")] == [
        b"AB",
        b"",
        "é".encode(),
    ]


def test_a_tensor_larger_than_a_message_goes_through_the_arena(oip: Any) -> None:
    x = np.random.default_rng(0).standard_normal((100, 5000)).astype(np.float32)
    result = oip.infer("echo", [an_input("big", x, "FP32", binary=True)])
    np.testing.assert_array_equal(result.as_numpy("big"), x)


def test_a_pipeline_answers_as_a_model(oip: Any) -> None:
    result = oip.infer("route", [an_input("text", np.array([b"hi"], dtype=object), "BYTES", binary=True)])
    assert result.as_numpy("loud")[0] == b"HI"


def test_errors_have_the_protocols_form(client: httpx.Client, oip: Any) -> None:
    answer = client.post("/v2/models/none/infer", json={"inputs": []})
    assert answer.status_code == 404
    assert "no model" in answer.json()["error"]
    x = np.zeros((2, 4), dtype=np.float32)
    with pytest.raises(InferenceServerException, match=r"expected x FP32 \[-1, 3\]"):
        oip.infer("scale", [an_input("x", x, "FP32", binary=True)])
    with pytest.raises(InferenceServerException, match="sequences are not supported"):
        oip.infer("scale", [an_input("x", x[:, :3], "FP32", binary=True)], sequence_id=7)


def infer(client: httpx.Client, head: Any, tail: bytes, length: str | None = None) -> httpx.Response:
    raw = json.dumps(head).encode()
    headers = {"inference-header-content-length": length if length is not None else str(len(raw))}
    return client.post("/v2/models/echo/infer", content=raw + tail, headers=headers)


def declared(size: int, shape: list[int], dtype: str = "FP32") -> dict[str, Any]:
    return {"inputs": [{"name": "t", "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("head", "tail", "length", "expected"),
    [
        (declared(8, [1, 2]), b"x" * 7, None, "7 bytes follow"),
        (declared(8, [1, 2]), b"x" * 9, None, "9 bytes follow"),
        (declared(8, [1, 3]), b"x" * 8, None, "takes 12 bytes, not 8"),
        (declared(-8, [1, 2]), b"", None, "number of bytes"),
        (declared(8, [-1, -2]), b"x" * 8, None, "sizes from 0"),
        (declared(2**62, [2**31 - 1, 2**31 - 1]), b"", None, "not 4611686018427387904"),
        (declared(6, [1], "BYTES"), b"\xff\xff\xff\xff..", None, "BYTES data"),
        (declared(4, [2**31 - 1], "BYTES"), b"", None, "too few"),
        (declared(8, [1, 2]), b"", "0", "declare one input"),
        (declared(8, [1, 2]), b"", "-5", "length of the JSON part"),
        (declared(8, [1, 2]), b"", "1" * 5000, "length of the JSON part"),
        (declared(8, [1, 2]), b"", "7", "not JSON"),
        ({"inputs": [declared(8, [1, 2])["inputs"][0]] * 2}, b"x" * 16, None, "given twice"),
        ({"inputs": [{"name": "t" * 70, "datatype": "FP32", "shape": [1], "data": [1]}]}, b"", None, "up to 63"),
        ({"inputs": "t"}, b"", None, "must be a list"),
    ],
)
def test_hostile_binary_bodies_are_422(
    client: httpx.Client, head: Any, tail: bytes, length: str | None, expected: str
) -> None:
    answer = infer(client, head, tail, length)
    assert answer.status_code == 422, answer.text
    assert expected in answer.json()["error"]


def test_a_body_that_the_arena_cannot_take_is_413(client: httpx.Client) -> None:
    size = 12 << 20
    answer = infer(client, declared(size, [1, size // 4]), b"")
    assert answer.status_code == 413


def test_the_whole_body_may_be_the_one_input(client: httpx.Client) -> None:
    x = np.arange(6, dtype="<f4")
    answer = client.post(
        "/v2/models/scale/infer", content=x.tobytes(), headers={"inference-header-content-length": "0"}
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(answer.content[length:], "<f4"), x * 2)


def test_a_raw_body_of_text_is_one_element(client: httpx.Client) -> None:
    answer = client.post("/v2/models/upper/infer", content=b"hey", headers={"inference-header-content-length": "0"})
    assert answer.content.endswith(b"\x03\x00\x00\x00HEY")


@pytest.mark.parametrize("size", [1, 11, 13])
def test_a_raw_body_that_is_no_multiple_of_a_row_is_422(client: httpx.Client, size: int) -> None:
    answer = client.post(
        "/v2/models/scale/infer", content=b"x" * size, headers={"inference-header-content-length": "0"}
    )
    assert answer.status_code == 422
    assert "multiple of 12" in answer.json()["error"]


def test_the_repository_index_lists_every_version(oip: Any, client: httpx.Client) -> None:
    listed = {entry["name"]: entry for entry in oip.get_model_repository_index()}
    assert (listed["upper"]["version"], listed["upper"]["state"]) == ("2.5", "READY")
    assert len(client.post("/v2/repository/index", json={"ready": True}).json()) == 6
    assert client.post("/v2/repository/index", content=b"[").status_code == 422
    assert client.post("/v2/repository/index", content=b" " * 5000).status_code == 413


def test_loading_is_refused_and_says_what_to_do(oip: Any) -> None:
    with pytest.raises(InferenceServerException, match="kubectl apply"):
        oip.load_model("scale")
    with pytest.raises(InferenceServerException, match="follows the resource"):
        oip.unload_model("scale")
