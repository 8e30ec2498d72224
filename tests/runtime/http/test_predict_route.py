"""`:predict` and `:run`: what they take, what they say to the rest."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from tests.runtime.serving.processes import Server

from podium.client import Client, ClientError

X = {"dtype": "FP32", "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}


def predict(client: httpx.Client, model: str, inputs: Any, **more: Any) -> httpx.Response:
    return client.post(f"/v1/models/{model}:predict", json={"inputs": inputs, **more})


@pytest.mark.parametrize(
    "tensor",
    [
        X,
        {"data": X["data"]},
        X["data"],
        {**X, "data": [1, 2, 3, 4, 5, 6]},
        {
            "dtype": "FP32",
            "shape": [2, 3],
            "base64": base64.b64encode(np.arange(1, 7, dtype="<f4").tobytes()).decode(),
        },
    ],
    ids=["full", "declared", "shorthand", "flat", "base64"],
)
def test_every_form_of_a_tensor_gives_the_same_answer(client: httpx.Client, tensor: Any) -> None:
    answer = predict(client, "scale", {"x": tensor})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["outputs"] == {"y": {"dtype": "FP32", "shape": [2, 3], "data": [[2, 4, 6], [8, 10, 12]]}}
    assert body["revision"] == answer.headers["podium-revision"]


def test_text_comes_back_as_text_and_other_bytes_as_base64(client: httpx.Client) -> None:
    assert predict(client, "upper", {"text": ["aé", ""]}).json()["outputs"]["upper"]["data"] == ["Aé", ""]
    raw = b"\x02\x00\x00\x00\xff\xfe"
    tensor = {"dtype": "BYTES", "shape": [1], "base64": base64.b64encode(raw).decode()}
    answer = predict(client, "echo", {"any": tensor}).json()["outputs"]["any"]
    assert base64.b64decode(answer["base64"]) == raw


@pytest.mark.parametrize("dtype", ["BOOL", "UINT8", "INT16", "INT64", "UINT64", "FP16", "FP64"])
def test_every_dtype_goes_through_an_undeclared_model(client: httpx.Client, dtype: str) -> None:
    data = [[True, False]] if dtype == "BOOL" else [[0, 1]]
    answer = predict(client, "echo", {"t": {"dtype": dtype, "shape": [1, 2], "data": data}})
    assert answer.json()["outputs"]["t"] == {"dtype": dtype, "shape": [1, 2], "data": data}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, '"inputs" must be an object'),
        ([1], '"inputs" must be an object'),
        ({"z": X}, "unknown input 'z'; expected x FP32 [-1, 3]"),
        ({"bias": X}, "input 'x' is missing; expected x FP32 [-1, 3]"),
        ({"x": {**X, "dtype": "FP64"}}, "dtype FP64; expected x FP32"),
        ({"x": {**X, "dtype": "FLOAT"}}, "expected one of BOOL"),
        ({"x": {**X, "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}}, "shape [3, 2]; expected x FP32 [-1, 3]"),
        ({"x": {**X, "shape": [2, 2]}}, "data has shape [2, 3]; expected [2, 2]"),
        ({"x": {**X, "shape": [-1, 3]}}, "sizes from 0"),
        ({"x": {**X, "shape": [1] * 9}}, "1 to 8 sizes"),
        ({"x": {**X, "data": [[1, 2], [3]]}}, "ragged"),
        ({"x": {**X, "data": [["a", "b", "c"]]}}, "numbers only"),
        ({"x": {**X, "data": "AAAA"}}, "must be a list of numbers"),
        ({"x": {"dtype": "FP32", "shape": [2, 3]}}, "exactly one of data and base64"),
        ({"x": {"dtype": "FP32", "shape": [2, 3], "base64": "AAAA"}}, "takes 24 bytes, not 3"),
        ({"x": {"dtype": "FP32", "shape": [2, 3], "base64": "%"}}, "base64"),
        ({"x": {**X, "dta": 1}}, "unknown key 'dta'"),
        ({"x" * 64: X}, "unknown input"),
    ],
)
def test_wrong_inputs_are_422_and_the_message_names_what_was_expected(
    client: httpx.Client, inputs: Any, expected: str
) -> None:
    answer = predict(client, "scale", inputs)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert expected in error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("dtype", "data", "expected"),
    [
        ("UINT8", [256], "from 0 to 255"),
        ("INT64", [1.5], "integers only"),
        ("INT64", [2**70], "integers only"),
        ("BOOL", [1], "true or false only"),
        ("BYTES", [1], "strings only"),
        ("BYTES", [["a"], ["b", "c"]], "ragged"),
    ],
)
def test_data_that_does_not_fit_its_dtype_is_422(client: httpx.Client, dtype: str, data: Any, expected: str) -> None:
    answer = predict(client, "echo", {"t": {"dtype": dtype, "shape": [len(data)], "data": data}})
    assert answer.status_code == 422
    assert expected in answer.json()["error"]["message"]


def test_a_request_can_choose_outputs(client: httpx.Client) -> None:
    assert predict(client, "scale", {"x": X}, outputs=["y"]).status_code == 200
    refused = predict(client, "scale", {"x": X}, outputs=["w"])
    assert (refused.status_code, "expected one of y" in refused.text) == (422, True)


def test_a_version_is_asked_for_by_name(client: httpx.Client) -> None:
    assert client.post("/v1/models/upper/versions/2.5:predict", json={"inputs": {"text": ["a"]}}).status_code == 200
    missing = client.post("/v1/models/upper/versions/3:predict", json={"inputs": {"text": ["a"]}})
    assert missing.status_code == 404
    assert "loaded: 2.5" in missing.json()["error"]["message"]


def test_an_unknown_model_is_404_and_says_what_is_served(client: httpx.Client) -> None:
    answer = predict(client, "nothing", {"x": X})
    assert answer.status_code == 404
    assert "served: echo, moody, scale, talk, upper" in answer.json()["error"]["message"]


def test_a_model_that_raises_is_500_with_its_last_lines(client: httpx.Client) -> None:
    answer = predict(client, "moody", {"order": [1]})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "model_error"
    assert "does not like this" in answer.json()["error"]["message"]


def test_a_worker_that_dies_is_503_with_retry_after_and_comes_back(client: httpx.Client) -> None:
    answer = predict(client, "moody", {"order": [2]})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert predict(client, "moody", {"order": [0]}).status_code == 200


def test_a_deadline_is_504(client: httpx.Client) -> None:
    answer = predict(client, "moody", {"order": [3]}, timeout_ms=100)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_pipeline_takes_the_branch_that_its_condition_names(client: httpx.Client) -> None:
    def run(text: list[str]) -> httpx.Response:
        return client.post("/v1/pipelines/route:run", json={"inputs": {"text": text}})

    hard, easy = run(["hello"]), run(["bye"])
    assert hard.json()["outputs"]["loud"]["data"] == ["HELLO"]
    assert list(easy.json()["outputs"]) == ["label"]
    mixed = run(["hello", "bye"])
    assert mixed.status_code == 422
    assert "step shout" in mixed.json()["error"]["message"]


def test_a_request_id_is_echoed_only_if_well_formed(client: httpx.Client) -> None:
    answer = client.post("/v1/models/scale:predict", json={"inputs": {"x": X}}, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    answer = client.get("/v1/models", headers={"x-request-id": "a b\tc"})
    assert answer.headers["x-request-id"] == answer.headers["traceparent"].split("-")[1]


def test_a_trace_is_continued_with_a_span_of_its_own(client: httpx.Client) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    for path in ("/v1/models", "/v1/models/none:predict"):
        answer = client.post(path, headers={"traceparent": trace, "tracestate": "vendor=1,other=x"})
        version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", "a" * 32, "01")
        assert span_id != "b" * 16
        assert answer.headers["tracestate"] == "vendor=1,other=x"


def test_a_malformed_trace_starts_a_new_one_without_its_state(client: httpx.Client) -> None:
    bad = "00-" + "0" * 32 + "-" + "b" * 16 + "-01"
    answer = client.get("/v1/models", headers={"traceparent": bad, "tracestate": "vendor=1"})
    assert answer.headers["traceparent"].split("-")[1] not in ("0" * 32, "a" * 32)
    assert "tracestate" not in answer.headers


def test_the_client_takes_arrays_and_knows_pipelines(server: Server) -> None:
    with Client(server.url) as made:
        answer = made.predict("scale", {"x": np.ones((1, 3), dtype=np.float32)})
        assert answer.outputs["y"]["data"] == [[2.0, 2.0, 2.0]]
        assert made.predict("route", {"text": np.array([b"hi"], dtype=object).astype(str)}).outputs["loud"]["data"] == [
            "HI"
        ]
        with pytest.raises(ClientError, match="404") as caught:
            made.predict("nothing", {})
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_cold_routes_answer(client: httpx.Client) -> None:
    listed = {entry["id"]: entry for entry in client.get("/v1/models").json()["data"]}
    assert listed["route"]["kind"] == "InferencePipeline"
    assert listed["scale"]["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    for path in ("/health/live", "/health/ready", "/health/startup", "/v2/health/live", "/v2", "/v1/pipelines/route"):
        assert client.get(path).status_code == 200, path
    assert client.get("/v1/models/none").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_route"),
        ("GET", "/v2/nowhere", 404, "unknown_route"),
        ("GET", "/v1/models/none", 404, "not_found"),
        ("POST", "/v1/models/none:predict", 404, "not_found"),
        ("POST", "/v2/models/none/infer", 404, "not_found"),
        ("POST", "/v1/none/predict", 404, "not_found"),
        ("GET", "/v1/models/scale:predict", 405, "method_not_allowed"),
        ("DELETE", "/v2/models/scale/infer", 405, "method_not_allowed"),
        ("POST", "/health/ready", 405, "method_not_allowed"),
        ("POST", "/v2/models/scale", 405, "method_not_allowed"),
        ("POST", "/v2/repository/models/scale/load", 409, "declared_elsewhere"),
        ("POST", "/v2/repository/models/scale/unload", 409, "declared_elsewhere"),
        ("POST", "/v1/models:load", 409, "declared_elsewhere"),
        ("POST", "/v1/models/scale:activate", 409, "declared_elsewhere"),
        ("POST", "/v1/scale/reload", 409, "declared_elsewhere"),
    ],
)
def test_every_error_has_the_one_body(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    body = answer.json()
    facts = body if path.startswith("/v2") else body["error"]
    assert (answer.status_code, facts["code"], facts["retryable"]) == (status, code, False)
    assert facts["request_id"] == answer.headers["x-request-id"]
    assert isinstance(body["error"] if path.startswith("/v2") else facts["message"], str)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize("text", ["é", "\udb01", "AA", "A A=", "====", 5, None, ["AAAA"]])
def test_what_is_not_base64_is_422(client: httpx.Client, text: Any) -> None:
    body = json.dumps({"inputs": {"x": {"dtype": "FP32", "shape": [1, 1], "base64": text}}})
    answer = client.post("/v1/models/echo:predict", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
