"""Forms of bodies: chosen by content type, equal in meaning, and none of them a way in."""

import io
import json
import os
import pickle
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tests.runtime.serving.processes import Server, served, until

from podium.errors import InvalidInput
from podium.http.forms.document import Served
from podium.http.forms.files import NPY, npy_answer, parse_npy, parse_raw
from podium.http.forms.image import MAX_PIXELS, parse_image
from podium.http.forms.named import parse_predict, predict_answer
from podium.http.forms.packed import MSGPACK, msgpack_answer, parse_msgpack
from podium.http.forms.table import READERS, Form, answer_form, body_form
from podium.http.forms.wishes import NamedRequest
from podium.http.transport.errors import NotAcceptableError, UnsupportedMediaTypeError
from podium.ipc.tensor import NUMPY_DTYPES, Tensor
from podium.serving.revisions.contract import Contract
from podium_crds.tensors import DType, TensorSpec

SERVED = Served("m", "1", "m-1", "r")
ANYTHING = Contract({}, {})
ARRAYS = st.sampled_from(sorted(NUMPY_DTYPES.values(), key=str)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
)


def one_input(dtype: DType, *shape: int) -> Contract:
    return Contract({"x": TensorSpec(name="x", dtype=dtype, shape=shape)}, {})


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@settings(deadline=None)
@given(ARRAYS)
def test_msgpack_round_trips_every_array(array: np.ndarray[Any, Any]) -> None:
    outputs = {"x": Tensor.from_array(array)}
    answered = msgspec.msgpack.decode(msgpack_answer(SERVED, NamedRequest(), outputs).body)
    tensors, _ = parse_msgpack(msgspec.msgpack.encode({"inputs": answered["outputs"]}), ANYTHING)
    assert same(tensors["x"].array(), array)


@settings(deadline=None)
@given(ARRAYS)
def test_a_numpy_file_round_trips_every_array(array: np.ndarray[Any, Any]) -> None:
    raw = npy_answer(SERVED, NamedRequest(), {"x": Tensor.from_array(array)}).body
    assert same(np.load(io.BytesIO(raw), allow_pickle=False), array)
    dtype = Tensor.from_array(array).dtype
    tensors, _ = parse_npy(raw, one_input(dtype, *[-1] * array.ndim))
    assert same(tensors["x"].array(), array)


@settings(deadline=None)
@given(hnp.arrays(np.dtype("<f4"), (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_json_round_trips_numbers(array: np.ndarray[Any, Any]) -> None:
    answered = json.loads(predict_answer(SERVED, NamedRequest(), {"x": Tensor.from_array(array)}).body)
    tensors, _ = parse_predict(json.dumps({"inputs": answered["outputs"]}).encode(), ANYTHING)
    assert np.array_equal(tensors["x"].array(), array)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_round_trip_through_msgpack(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    answered = msgspec.msgpack.decode(msgpack_answer(SERVED, NamedRequest(), {"x": Tensor.from_array(array)}).body)
    assert answered["outputs"]["x"]["data"] == elements


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([form for form in READERS if form is not Form.IMAGE]))
def test_garbage_is_refused_and_nothing_else(raw: bytes, form: Form) -> None:
    contract = one_input(DType.INT64, -1, 7)
    try:
        tensors, _ = READERS[form].parse(raw, contract)
    except InvalidInput:
        return
    contract.check(tensors)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_behind_the_head_of_an_image_is_refused(raw: bytes) -> None:
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x10\x00\x00\x00WEBP"):
        with pytest.raises(InvalidInput):
            parse_image(head + raw, one_input(DType.UINT8, -1, -1, -1, 3))


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    body = header.encode("latin1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(body)) + body + data


@pytest.mark.parametrize(
    "raw",
    [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", pickle.dumps([print])),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}\n", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", b"123456"),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}\n", b"1234"),
        npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}\n", b"1234"),
        npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}\n", b"12345678"),
        npy("__import__('os').abort()\n"),
        npy("(" * 5000),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", b"1234", b"\x09\x00"),
        b"PK\x03\x04" + b"0" * 40,
        b"\x93NUMPY",
        pickle.dumps({"x": 1}),
    ],
)
def test_a_hostile_numpy_file_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_npy(raw, one_input(DType.FP32, -1))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1\xff\x01",
        msgspec.msgpack.encode({"inputs": {1: 2}}),
        msgspec.msgpack.encode({"inputs": {}}),
        msgspec.msgpack.encode({"inputs": {"x": {"dtype": "FP32", "shape": [2**31 - 1] * 8, "data": b"1234"}}}),
        msgspec.msgpack.encode({"inputs": {"x": {"dtype": "FP32", "shape": [2], "data": b"1234"}}}),
        msgspec.msgpack.encode({"inputs": {"x": {"dtype": "FP32", "data": b"1234"}}}),
        msgspec.msgpack.encode({"inputs": {"x": {"dtype": "FP32", "shape": [1], "data": b"1234", "pickle": b""}}}),
        msgspec.msgpack.encode({"inputs": {"x": msgspec.msgpack.Ext(1, b"1")}}),
    ],
)
def test_hostile_msgpack_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_msgpack(raw, one_input(DType.FP32, -1))


def png(width: int, height: int) -> bytes:
    """A picture whose head says that size and whose data is nearly nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (20_000, 1), (MAX_PIXELS // 1000 + 1, 1000)])
def test_an_image_too_large_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(InvalidInput, match="expected at most"):
        parse_image(png(width, height), one_input(DType.UINT8, -1, -1, -1, 3))


def test_an_animated_or_truncated_image_is_refused() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    for raw in (file.getvalue(), image_bytes("PNG")[:-30], image_bytes("JPEG")[:-200]):
        with pytest.raises(InvalidInput):
            parse_image(raw, one_input(DType.UINT8, -1, -1, -1, 3))


def image_bytes(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint8).reshape(40, 60, 3)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_becomes_pixels_in_the_channels_declared(channels: int) -> None:
    tensors, _ = parse_image(image_bytes("PNG"), one_input(DType.UINT8, -1, -1, -1, channels))
    assert tensors["x"].shape == (1, 40, 60, channels)
    if channels == 3:
        assert tensors["x"].array().tobytes() == np.arange(60 * 40 * 3, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("value", [b"text/html", b"application/json5", b"*/*", b"\xff", b",", b"a" * 5000])
def test_an_unknown_content_type_is_named_with_those_known(value: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="application/msgpack"):
        body_form(value)


def test_content_types_and_accepted_types_are_read_as_clients_write_them() -> None:
    assert body_form(b"Application/JSON; charset=utf-8") is Form.NAMED
    assert body_form(b"application/x-msgpack") is Form.MSGPACK
    assert answer_form(b"text/html, application/x-npy;q=0.9, */*", Form.NAMED) is Form.NPY
    assert answer_form(None, Form.MSGPACK) is Form.MSGPACK
    assert answer_form(None, Form.IMAGE) is Form.NAMED
    with pytest.raises(NotAcceptableError):
        answer_form(b"text/html", Form.NAMED)


def test_every_form_of_a_body_gives_the_same_answer(client: httpx.Client) -> None:
    x = np.arange(6, dtype="<f4").reshape(2, 3)
    file = io.BytesIO()
    np.save(file, x)
    packed = msgspec.msgpack.encode({"inputs": {"x": {"dtype": "FP32", "shape": [2, 3], "data": x.tobytes()}}})
    bodies = {b"application/octet-stream": x.tobytes(), NPY: file.getvalue(), MSGPACK: packed}
    for content_type, body in bodies.items():
        headers = {"content-type": content_type.decode(), "accept": "application/json"}
        answer = client.post("/v1/models/scale:predict", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"]["y"]["data"] == (x * 2).tolist()
    answer = client.post(
        "/v1/models/scale:predict", json={"inputs": {"x": x.tolist()}}, headers={"accept": NPY.decode()}
    )
    assert same(np.load(io.BytesIO(answer.content)), x * 2)
    assert client.post("/v1/models/upper:predict", content="aé", headers={"content-type": "text/plain"}).json()[
        "outputs"
    ]["upper"]["data"] == ["Aé"]
    assert parse_raw(x.tobytes(), one_input(DType.FP32, -1, 3))[0]["x"].shape == (2, 3)


@pytest.mark.parametrize(("header", "status"), [("content-type", 415), ("accept", 406)])
def test_what_nobody_reads_or_writes_is_said_so(client: httpx.Client, header: str, status: int) -> None:
    answer = client.post("/v1/models/scale:predict", json={"inputs": {}}, headers={header: "text/html"})
    assert answer.status_code == status
    assert "application/msgpack" in answer.json()["error"]["message"]


def large(rows: int = 100_000) -> dict[str, Any]:
    return {"inputs": {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3).tolist()}}


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Server]:
    """A model that takes many rows, on a server of its own: its codec process is killed here."""
    yaml = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    from podium import Model

    import numpy as np

    class Echo(Model):
        def infer(self, inputs):
            return dict(inputs)

    class Grow(Model):
        def infer(self, inputs):
            return {"y": np.tile(inputs["x"], (1, 100_000))}
"""
    for name, model, spec in (
        ("rows", "Echo", "dtype: FP32, shape: [-1, -1, 3]"),
        ("picture", "Echo", "dtype: UINT8, shape: [-1, -1, -1, 3]"),
        ("grow", "Grow", "dtype: FP32, shape: [-1, 1]"),
    ):
        yaml += f"""---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: {name}}}
spec:
  source: {{uri: "configmap://code"}}
  engine: Python
  python: {{entrypoint: "models:{model}"}}
  inputs: [{{name: x, {spec}}}]
"""
    with served(tmp_path, yaml, arena_mib=64) as server:
        yield server


def codec_pids(server: Server) -> list[int]:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"podium.http.codec.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ask_large(server: Server) -> httpx.Response:
    body = {"inputs": {"x": [large(50_000)["inputs"]["x"]]}}
    return httpx.post(server.url + "/v1/models/rows:predict", json=body, timeout=60)


def test_large_json_goes_through_the_codec_process_and_survives_its_death(big: Server) -> None:
    assert codec_pids(big) == []
    answer = ask_large(big)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["outputs"]["x"]["data"] == [large(50_000)["inputs"]["x"]]
    (pid,) = codec_pids(big)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in codec_pids(big), "it is collected")
    assert ask_large(big).status_code == 200
    (other,) = codec_pids(big)
    assert other != pid
    os.kill(other, signal.SIGSTOP)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(big.url + "/v1/models/rows:predict", json={"inputs": {"x": [large()["inputs"]["x"]]}}, timeout=2)
    os.kill(other, signal.SIGCONT)  # the client has left; its job ends by itself, and the next one is not disturbed
    assert ask_large(big).json()["outputs"]["x"]["data"] == [large(50_000)["inputs"]["x"]]
    until(lambda: "podium_requests_in_flight 0.0" in httpx.get(big.url + "/metrics").text, "nothing in flight")
    page = httpx.get(big.url + "/metrics").text
    used = [line for line in page.splitlines() if line.startswith("podium_arena_bytes") and 'state="used"' in line]
    assert used
    assert all(line.endswith(" 0.0") for line in used), used


def test_a_large_answer_to_a_small_request_is_written_in_the_codec_process_too(big: Server) -> None:
    for path, body in (
        ("/v1/models/grow:predict", {"inputs": {"x": [[1.5]]}}),
        ("/v2/models/grow/infer", {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.5]}]}),
    ):
        answer = httpx.post(big.url + path, json=body, timeout=30)
        assert answer.status_code == 200, answer.text[:300]
        outputs = answer.json()["outputs"]
        data = outputs[0]["data"] if isinstance(outputs, list) else outputs["y"]["data"][0]
        assert data == [1.5] * 100_000
        assert answer.headers["x-request-id"]
    assert len(codec_pids(big)) == 1
    until(lambda: "podium_requests_in_flight 0.0" in httpx.get(big.url + "/metrics").text, "nothing in flight")


def test_an_image_reaches_the_model_as_pixels_and_a_bad_one_is_422(big: Server) -> None:
    path = big.url + "/v1/models/picture:predict"
    answer = httpx.post(path, content=image_bytes("PNG"), headers={"content-type": "image/png"}, timeout=30)
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["outputs"]["x"]["shape"] == [1, 40, 60, 3]
    for raw in (png(100_000, 100_000), b"\x89PNG", b""):
        answer = httpx.post(path, content=raw, headers={"content-type": "image/png"}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
