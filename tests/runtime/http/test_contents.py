"""Inputs that are given as files: read as bodies of their types are, whatever route and form they come by."""

import base64
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tests.runtime.http.test_codecs import ARRAYS, codec_pids, one_input, same
from tests.runtime.serving.processes import Server, served, until

from podium.errors import InvalidInput
from podium.frames import FrameKind, call_bytes, frames_of
from podium.http.forms import contents
from podium.http.forms.contents import MAX_CONTENT_BYTES, Content, IsolatedContentError, Reading, content_tensor
from podium.http.forms.infer import parse_infer
from podium.http.forms.named import parse_predict
from podium.http.forms.packed import parse_msgpack
from podium.http.transport.errors import BodyTooLargeError, UnsupportedMediaTypeError
from podium.ipc.tensor import Tensor
from podium_crds.tensors import DType

NPY = "application/x-npy"
ANYWHERE = Reading(may_decode_pictures=True)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def picture(shade: int, size: tuple[int, int] = (4, 3), form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(stream, form)
    return stream.getvalue()


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


def by_name(files: list[bytes], content_type: str) -> bytes:
    return json.dumps(
        {"inputs": {"x": {"content_type": content_type, "data": [text(file) for file in files]}}}
    ).encode()


def by_msgpack(files: list[bytes], content_type: str) -> bytes:
    return msgspec.msgpack.encode({"inputs": {"x": {"content_type": content_type, "data": files}}})


def by_protocol(files: list[bytes], content_type: str) -> bytes:
    data = [text(file) for file in files]
    tensor = {"name": "x", "datatype": "BYTES", "shape": [len(files)], "data": data}
    return json.dumps({"inputs": [{**tensor, "parameters": {"content_type": content_type}}]}).encode()


FORMS = [(by_name, parse_predict), (by_msgpack, parse_msgpack), (by_protocol, parse_infer)]
Written = Callable[[list[bytes], str], bytes]
Parse = Callable[[bytes, Any], tuple[dict[str, Tensor], Any]]


@pytest.mark.parametrize(("written", "parse"), FORMS)
@settings(deadline=None)
@given(array=ARRAYS, count=st.integers(1, 3))
def test_numpy_files_round_trip_and_several_are_joined(
    written: Written, parse: Parse, array: np.ndarray[Any, Any], count: int
) -> None:
    contract = one_input(Tensor.from_array(array).dtype, *[-1] * array.ndim)
    tensors, _ = parse(written([npy(array)] * count, NPY), contract)
    assert same(tensors["x"].array(), np.concatenate([array] * count))


@pytest.mark.parametrize(("written", "parse"), FORMS)
@settings(deadline=None)
@given(files=st.lists(st.binary(max_size=30), min_size=1, max_size=4), content_type=st.sampled_from([NPY, "image/png"]))
def test_bytes_reach_a_model_of_bytes_as_they_are(
    written: Written, parse: Parse, files: list[bytes], content_type: str
) -> None:
    tensors, _ = parse(written(files, content_type), one_input(DType.BYTES, -1))
    assert tensors["x"].array().tolist() == files


@settings(deadline=None)
@given(array=hnp.arrays(np.dtype("<i4"), (3, 2)))
def test_base64_is_raw_elements_or_bytes(array: np.ndarray[Any, Any]) -> None:
    body = {"inputs": {"x": {"content_type": "base64", "data": text(array.tobytes())}}}
    raw = json.dumps(body).encode()
    assert same(parse_predict(raw, one_input(DType.INT32, -1, 2))[0]["x"].array(), array)
    assert parse_predict(raw, one_input(DType.BYTES, -1))[0]["x"].array().tolist() == [array.tobytes()]


def test_base64_of_mlserver_is_decoded_also_where_the_model_declares_nothing() -> None:
    tensors, _ = parse_infer(by_protocol([b"\xff\x00", b""], "base64"), contents.Contract({}, {}))
    assert tensors["x"].array().tolist() == [b"\xff\x00", b""]


@pytest.mark.parametrize("name", ["np", "str", "pd", "datetime"])
def test_what_mlserver_says_of_plain_tensors_changes_nothing(name: str) -> None:
    entry = {"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2], "parameters": {"content_type": name}}
    tensors, _ = parse_infer(json.dumps({"inputs": [entry]}).encode(), one_input(DType.INT32, -1, 2))
    assert tensors["x"].array().tolist() == [[1, 2]]


@pytest.mark.parametrize(("written", "parse"), FORMS)
@settings(deadline=None)
@given(
    file=st.binary(max_size=200),
    content_type=st.sampled_from([NPY, "application/octet-stream", "base64", "text/plain"]),
)
def test_garbage_is_refused_and_nothing_else(written: Written, parse: Parse, file: bytes, content_type: str) -> None:
    contract = one_input(DType.INT64, -1, 7)
    try:
        tensors, _ = parse(written([file], content_type), contract)
    except InvalidInput:
        return
    contract.check(tensors)


@pytest.mark.parametrize(("written", "parse"), FORMS)
def test_no_picture_is_decoded_outside_the_codec_process(written: Written, parse: Parse) -> None:
    with pytest.raises(IsolatedContentError):
        parse(written([picture(1)], "image/png"), one_input(DType.UINT8, -1, -1, -1, 3))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"content_type": NPY}, "exactly one of data and base64"),
        ({"content_type": NPY, "data": [], "base64": ""}, "exactly one of data and base64"),
        ({"content_type": NPY, "data": [1]}, "expected files"),
        ({"content_type": NPY, "data": []}, "at least one"),
        ({"content_type": NPY, "data": ["é"]}, "not base64"),
        ({"content_type": NPY, "data": ["AA"] * 2000}, "2000 files; expected at most 1024"),
        ({"content_type": NPY, "data": ["AAAA"], "dtype": "INT64"}, "unknown key"),
        ({"content_type": NPY, "data": ["AAAA"], "shape": [2]}, "1 files; shape [2] takes 2"),
        ({"content_type": 1, "data": ["AAAA"]}, "must be text"),
        ({"content_type": "str", "data": ["AAAA"]}, "expected exactly one"),
        ({"content_type": NPY, "data": [text(npy(np.zeros((1, n), "<i8"))) for n in (1, 2)]}, "different shapes"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_predict(json.dumps({"inputs": {"x": entry}}).encode(), one_input(DType.INT64, -1, -1))
    assert said in str(refused.value)


def test_an_unknown_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="image/png"):
        parse_predict(by_name([b""], "application/x-pickle"), one_input(DType.INT64, -1))


def test_a_file_beside_numbers_is_refused() -> None:
    entry = {"name": "x", "datatype": "INT32", "shape": [1], "data": [1], "parameters": {"content_type": NPY}}
    with pytest.raises(InvalidInput, match="expected BYTES"):
        parse_infer(json.dumps({"inputs": [entry]}).encode(), one_input(DType.INT32, -1))


def test_files_become_no_more_than_a_request_may() -> None:
    file = npy(np.zeros((1, MAX_CONTENT_BYTES // 4), np.uint8))
    contract = one_input(DType.UINT8, -1, -1)
    assert content_tensor("x", Content(NPY, [file] * 4), contract, Reading(False)).nbytes == MAX_CONTENT_BYTES
    with pytest.raises(BodyTooLargeError):
        content_tensor("x", Content(NPY, [file] * 5), contract, Reading(False))


YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    class Corner:
        def infer(self, inputs):
            return {"y": inputs["x"][:, 0, 0, :]}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: corner}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Corner"}
  inputs: [{name: x, dtype: UINT8, shape: [-1, -1, -1, 3]}]
  outputs: [{name: "y", dtype: UINT8, shape: [-1, 3]}]
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: corners}
spec:
  models:
    - {name: corner, modelRef: {name: corner}}
  steps:
    - {name: one, model: corner, inputs: [{name: x, from: request.x}]}
  outputs: [{name: "y", from: one.y}]
"""
SHADES = (10, 200)
CORNERS = [[10, 0, 245], [200, 0, 55]]
PICTURES = [picture(shade) for shade in SHADES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("contents"), YAML, "--grpc-port", "0") as made:
        yield made


def over_predict(server: Server, name: str) -> Any:
    verb = "pipelines/corners:run" if name == "corners" else "models/corner:predict"
    answer = httpx.post(f"{server.url}/v1/{verb}", content=by_name(PICTURES, "image/png"), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]["y"]["data"]


def over_protocol(server: Server, name: str) -> Any:
    body = by_protocol(PICTURES, "image/png")
    answer = httpx.post(f"{server.url}/v2/models/{name}/infer", content=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.reshape(answer.json()["outputs"][0]["data"], (-1, 3)).tolist()


def over_the_binary_extension(server: Server, name: str) -> Any:
    raw = b"".join(len(file).to_bytes(4, "little") + file for file in PICTURES)
    parameters = {"content_type": "image/png", "binary_data_size": len(raw)}
    entry = {"name": "x", "datatype": "BYTES", "shape": [len(PICTURES)], "parameters": parameters}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = httpx.post(f"{server.url}/v2/models/{name}/infer", content=head + raw, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.reshape(answer.json()["outputs"][0]["data"], (-1, 3)).tolist()


def over_grpc(server: Server, name: str) -> Any:
    given = triton.InferInput("x", [len(PICTURES)], "BYTES")
    given.set_data_from_numpy(np.array(PICTURES, object))
    given._input.parameters["content_type"].string_param = "image/png"
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        return client.infer(name, [given]).as_numpy("y").tolist()


def over_frames(server: Server, name: str) -> Any:
    files = {"content_type": "image/png", "data": PICTURES}
    body = call_bytes(1, name, msgspec.msgpack.encode({"inputs": {"x": files}}))
    answer = httpx.post(f"{server.url}/rpc/{name}", content=body, timeout=60)
    assert answer.status_code == 200, answer.content
    data = next(found for found in frames_of(memoryview(answer.content)) if found.kind is FrameKind.DATA)
    made = msgspec.msgpack.decode(data.payload)["outputs"]["y"]["data"]
    return np.frombuffer(made, np.uint8).reshape(-1, 3).tolist()


@pytest.mark.parametrize("name", ["corner", "corners"])
@pytest.mark.parametrize(
    "asked",
    [over_predict, over_protocol, over_the_binary_extension, over_grpc, over_frames],
    ids=lambda way: way.__name__,
)
def test_pictures_reach_a_model_as_pixels_by_every_way(
    server: Server, asked: Callable[[Server, str], Any], name: str
) -> None:
    assert asked(server, name) == CORNERS


def test_a_bad_picture_is_422_by_the_name_of_its_input(server: Server) -> None:
    body = by_name([PICTURES[0], b"\x89PNG\r\n\x1a\nnot one"], "image/png")
    answer = httpx.post(f"{server.url}/v1/models/corner:predict", content=body, timeout=60)
    assert answer.status_code == 422
    assert "input 'x'" in answer.json()["error"]["message"]
    assert over_predict(server, "corner") == CORNERS


def test_pictures_of_different_sizes_are_refused_with_them(server: Server) -> None:
    body = by_name([PICTURES[0], picture(3, (5, 5))], "image/png")
    answer = httpx.post(f"{server.url}/v1/models/corner:predict", content=body, timeout=60)
    assert (answer.status_code, "different shapes" in answer.text) == (422, True), answer.text


def test_a_small_file_that_is_too_many_pixels_is_refused(server: Server) -> None:
    stream = io.BytesIO()
    Image.new("L", (5000, 5000)).save(stream, "PNG")
    body = by_name([stream.getvalue()], "image/png")
    answer = httpx.post(f"{server.url}/v1/models/corner:predict", content=body, timeout=60)
    assert (answer.status_code, "pixels" in answer.text) == (422, True), answer.text


def in_flight(server: Server) -> bool:
    return "podium_requests_in_flight 0.0" not in httpx.get(server.url + "/metrics").text


def test_a_client_that_leaves_while_its_picture_is_read_leaves_nothing_behind(server: Server) -> None:
    assert over_predict(server, "corner") == CORNERS
    (pid,) = codec_pids(server)
    url, body = f"{server.url}/v1/models/corner:predict", by_name(PICTURES, "image/png")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, content=body, timeout=httpx.Timeout(60, read=0.5))
        assert in_flight(server)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: not in_flight(server), "nothing in flight")
    assert over_predict(server, "corner") == CORNERS
