"""Content types that a model's own code reads and writes: in a process of its own, whatever comes in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.runtime.serving.processes import Server, podium, served, until

from podium.telemetry.processes import children_of

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import os
    import numpy as np
    from podium import Model
    from forms import read_pgm, write_pgm  # found here, where they were imported

    class Invert(Model):
        def infer(self, inputs):
            picture = 255 - inputs["picture"]
            return {"picture": picture, "pid": np.full(len(picture), os.getpid())}

        def infer_stream(self, inputs):
            for row in inputs["picture"][0]:
                yield {"picture": 255 - row[None, None]}
  forms.py: |
    import os
    import time
    import numpy as np
    from podium import decodes, encodes

    @decodes("image/x-portable-graymap")
    def read_pgm(body, content_type):
        magic, width, height, most, data = body.split(maxsplit=4) if body.count(b" ") > 3 else [b""] * 5
        if magic != b"P5" or most != b"255":
            raise ValueError("no binary graymap of 8 bits")
        picture = np.frombuffer(data, np.uint8, int(width) * int(height))
        return {"picture": picture.reshape(1, int(height), int(width))}

    @encodes("image/x-portable-graymap")
    def write_pgm(outputs):
        _, height, width = outputs["picture"].shape
        return b"P5 %d %d 255 " % (width, height) + outputs["picture"].tobytes()
  podium_codecs.py: |
    import ctypes
    import time
    import numpy as np
    from podium import decodes, encodes

    @decodes("x-test/told")
    def told(body, content_type):
        what = body.decode()
        if what == "dies":
            ctypes.string_at(0)
        if what == "hangs":
            time.sleep(60)
        if what == "bomb":
            return {"picture": np.ones((1, 1 << 16, 1 << 16), np.uint8)}
        if what == "large":
            return {"picture": np.zeros((1, 9000, 9000), np.uint8)}
        if what == "floats":
            return {"picture": np.zeros((1, 2, 2), np.float32)}
        if what == "flat":
            return {"picture": np.zeros((4,), np.uint8)}
        if what == "misnamed":
            return {"photo": np.zeros((1, 2, 2), np.uint8)}
        if what == "list":
            return [1, 2, 3]
        if what == "objects":
            return {"picture": np.array([object()])}
        if what == "charset":
            return {"picture": np.full((1, 1, 1), len(content_type), np.uint8)}
        raise RuntimeError

    @encodes("x-test/raises")
    def raises(outputs):
        raise KeyError("no such output")

    @encodes("x-test/number")
    def number(outputs):
        return 3

    @encodes("text/x-sum")
    def words(outputs):
        return f"sum {outputs['picture'].sum()}"
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: invert}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Invert"}
  inputs: [{name: picture, dtype: UINT8, shape: [-1, -1, -1]}]
  outputs:
    - {name: picture, dtype: UINT8, shape: [-1, -1, -1]}
    - {name: pid, dtype: INT64, shape: [-1]}
  timeoutSeconds: 5
"""
PGM = "image/x-portable-graymap"
PREDICT = "/v1/models/invert:predict"
PICTURE = b"P5 3 2 255 \x00\x01\x02\x03\x04\x05"


@pytest.fixture(scope="module")
def inverting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("served"), YAML, arena_mib=64) as running:
        yield running


@pytest.fixture
def client(inverting: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=inverting.url, timeout=30) as made:
        yield made


def told(client: httpx.Client, what: str, **headers: str) -> httpx.Response:
    return client.post(PREDICT, content=what.encode(), headers={"content-type": "x-test/told", **headers})


def send(client: httpx.Client, body: bytes, accept: str = "*/*") -> httpx.Response:
    return client.post(PREDICT, content=body, headers={"content-type": PGM, "accept": accept})


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error: dict[str, Any] = response.json()["error"]
    return response.status_code, error["code"], error["message"]


def test_a_body_is_read_by_the_models_own_codec(client: httpx.Client) -> None:
    response = send(client, PICTURE)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"]["picture"]["data"] == [[[255, 254, 253], [252, 251, 250]]]


def test_an_answer_is_written_by_the_models_own_codec(client: httpx.Client) -> None:
    response = send(client, PICTURE, accept=PGM)
    assert (response.headers["content-type"], response.content) == (PGM, b"P5 3 2 255 \xff\xfe\xfd\xfc\xfb\xfa")
    assert response.headers["podium-revision"].startswith("invert")


def test_an_answer_to_json_is_written_by_the_models_own_codec_too(client: httpx.Client) -> None:
    body = {"inputs": {"picture": [[[1, 2]]]}}
    response = client.post(PREDICT, json=body, headers={"accept": "text/x-sum;q=1, application/json"})
    assert (response.headers["content-type"], response.text) == ("text/x-sum", "sum 507")


def test_the_first_type_that_can_be_written_wins(client: httpx.Client) -> None:
    response = client.post(
        PREDICT, json={"inputs": {"picture": [[[1]]]}}, headers={"accept": f"application/json, {PGM}"}
    )
    assert response.headers["content-type"] == "application/json"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hnp.arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 40), st.integers(1, 40))))
def test_every_picture_comes_back_as_its_negative(client: httpx.Client, picture: np.ndarray[Any, Any]) -> None:
    _, height, width = picture.shape
    head = b"P5 %d %d 255 " % (width, height)
    if picture.tobytes()[:1].isspace():
        return  # the format's own ambiguity
    response = send(client, head + picture.tobytes(), accept=PGM)
    assert response.content == head + (255 - picture).tobytes()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"P5 " + tail))
def test_hostile_bodies_are_refused_in_words(client: httpx.Client, body: bytes) -> None:
    response = send(client, body)
    assert response.status_code in (200, 400, 413, 422), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]


def test_a_large_body_travels_through_the_arena(client: httpx.Client) -> None:
    picture = np.random.default_rng(1).integers(1, 9, (1500, 2000), np.uint8)
    body = b"P5 2000 1500 255 " + picture.tobytes()
    assert send(client, body, accept=PGM).content == b"P5 2000 1500 255 " + (255 - picture).tobytes()


def test_a_body_of_unknown_length_is_read_too(client: httpx.Client) -> None:
    headers = {"content-type": PGM, "accept": "text/x-sum"}
    response = client.post(PREDICT, content=iter((PICTURE[:7], PICTURE[7:])), headers=headers)
    assert response.text == "sum 1515"


def test_a_stream_may_begin_with_an_own_body(client: httpx.Client) -> None:
    headers = {"content-type": PGM, "accept": "text/event-stream"}
    with client.stream("POST", PREDICT, content=PICTURE, headers=headers) as response:
        events = [line for line in response.iter_lines() if line.startswith("data:")]
    assert response.status_code == 200
    assert "[255,254,253]" in events[0]


def test_what_a_codec_raises_is_said_to_the_client(client: httpx.Client) -> None:
    status, code, message = error_of(send(client, b"GIF89a"))
    assert (status, code) == (400, "unreadable_body")
    assert message == (
        "the codec forms:read_pgm could not decode image/x-portable-graymap: ValueError: no binary graymap of 8 bits"
    )
    assert error_of(told(client, "unheard of"))[2].endswith("could not decode x-test/told: RuntimeError")


def test_a_content_types_parameters_reach_the_codec(client: httpx.Client) -> None:
    response = told(client, "charset", **{"content-type": "X-Test/Told; charset=utf-8"})
    assert response.json()["outputs"]["picture"]["data"] == [[[255 - len("X-Test/Told; charset=utf-8")]]]


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("floats", 500, "returned 'picture' as FP32; expected picture UINT8 [-1, -1, -1]"),
        ("misnamed", 500, "unknown input 'photo'"),
        ("list", 500, "returned list, expected arrays by input name"),
        ("objects", 500, "a BYTES element is object"),
        ("flat", 422, "has shape [4]; expected picture UINT8 [-1, -1, -1]"),
        ("large", 413, "81000000 bytes of tensors"),
        ("bomb", 413, "ran out of the memory"),
    ],
)
def test_what_a_codec_returns_is_checked(client: httpx.Client, what: str, status: int, words: str) -> None:
    found, _, message = error_of(told(client, what))
    assert found == status, message
    assert words in message


@pytest.mark.parametrize(
    ("accept", "words"),
    [("x-test/raises", "could not encode x-test/raises: KeyError"), ("x-test/number", "returned int, expected bytes")],
)
def test_a_codec_that_cannot_write_is_the_models_fault(client: httpx.Client, accept: str, words: str) -> None:
    status, code, message = error_of(send(client, PICTURE, accept=accept))
    assert (status, code) == (500, "model_error")
    assert words in message


def test_unknown_types_are_refused_with_a_list_that_has_the_models_own(client: httpx.Client) -> None:
    status, _, message = error_of(client.post(PREDICT, content=b"x", headers={"content-type": "image/x-unheard"}))
    assert (status, PGM in message) == (415, True)
    status, _, message = error_of(send(client, PICTURE, accept="image/x-unheard"))
    assert (status, PGM in message) == (406, True)


def test_a_codec_that_crashes_costs_its_own_process_alone(client: httpx.Client) -> None:
    before = model_pid(client)
    status, code, message = error_of(told(client, "dies"))
    assert (status, code) == (503, "worker_died")
    assert "invert-codecs" in message
    assert model_pid(client) == before
    until(lambda: send(client, PICTURE).status_code == 200, "bodies are read again")


def test_a_codec_that_hangs_is_ended(client: httpx.Client) -> None:
    headers = {"content-type": "x-test/told"}
    status, _, _ = error_of(client.post(PREDICT, content=b"hangs", headers=headers))
    assert status in (503, 504)
    until(lambda: send(client, PICTURE).status_code == 200, "bodies are read again")


def model_pid(client: httpx.Client) -> int:
    response = client.post(PREDICT, json={"inputs": {"picture": [[[1]]]}})
    pid: int = response.json()["outputs"]["pid"]["data"][0]
    return pid


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("@decodes('application/json')\ndef f(body, _): ...", "means the same for every model"),
        ("@decodes('Image/PNG')\ndef f(body, _): ...", "in lower case"),
        ("@decodes()\ndef f(body, _): ...", "needs a content type"),
        (
            "@decodes('image/tiff')\ndef f(body, _): ...\n@decodes('image/tiff')\ndef g(body, _): ...",
            "two functions decode image/tiff: podium_codecs:f and podium_codecs:g",
        ),
        ("import no_such_library", "No module named 'no_such_library'"),
    ],
)
def test_a_model_with_wrong_codecs_does_not_load(tmp_path: Path, source: str, words: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "models.py").write_text("from podium import Model\nclass M(Model):\n    def infer(self, i): return i\n")
    (folder / "podium_codecs.py").write_text(f"from podium import decodes\n{source}\n")
    resource = f"""
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {{name: m}}
spec:
  source: {{uri: "file://{folder}"}}
  engine: Python
  python: {{entrypoint: "models:M"}}
"""
    (tmp_path / "m.yaml").write_text(resource)
    environment = {"PODIUM_STATE_DIR": str(tmp_path / "state"), "PODIUM_ARENA_BYTES": str(8 << 20)}
    with podium("serve", "-f", str(tmp_path / "m.yaml"), "--port", "0", **environment) as process:
        process.says(words)


def test_codecs_change_with_the_version_that_has_them(tmp_path: Path) -> None:
    file, environment = tmp_path / "m.yaml", {"PODIUM_STATE_DIR": str(tmp_path / "state")}
    file.write_text(YAML)
    with podium("serve", "-f", str(file), "--port", "0", **environment) as process:
        url = process.says("listening on").split()[2]
        until(lambda: httpx.get(url + "/v2/health/ready").status_code == 200, lambda: f"ready\n{process.tail()}")
        with httpx.Client(base_url=url, timeout=30) as client:
            assert send(client, PICTURE).status_code == 200
            before = set(children_of(process.pid))
            file.write_text(YAML.replace(PGM, "image/x-newer"))
            until(lambda: send(client, PICTURE).status_code == 415, "the new version serves")
            response = client.post(PREDICT, content=PICTURE, headers={"content-type": "image/x-newer"})
            assert response.status_code == 200
            until(lambda: len(before - set(children_of(process.pid))) == 2, "the old model and its codecs are gone")
