"""The document says what the server does: requests made from it, right and wrong ones, get only what it allows."""

import contextlib
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.runtime.serving.processes import Server

CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
)
KILLS = "moody"
"""A model whose worker ends when it is asked to."""


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_document_get_what_it_allows(server: Server, mode: GenerationMode, part: int) -> None:
    document = httpx.get(server.url + "/openapi.json").json()
    document["paths"] = {path: item for path, item in document["paths"].items() if KILLS not in path}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 45
    for operation in operations[part::PARTS]:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            response = case.call_and_validate(checks=CHECKS, timeout=30)
            assert response.status_code != 500 or '"model_error"' in response.text, response.text

        with contextlib.suppress(Unsatisfiable):  # a route without parameters cannot be asked wrongly
            ask()


def test_the_document_is_made_of_the_contracts(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/models/scale:predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for inputs, is_right in (
        ({"x": [[1, 2, 3]]}, True),
        ({"x": {"data": [[1, 2, 3]], "dtype": "FP32"}, "bias": [[0, 0, 0]]}, True),
        ({"x": [[1, 2]]}, False),
        ({"x": [["a", "b", "c"]]}, False),
        ({"bias": [[1, 2, 3]]}, False),
        ({"x": [[1, 2, 3]], "more": []}, False),
    ):
        assert jsonschema.Draft202012Validator(body).is_valid({"inputs": inputs}) is is_right, inputs
        answered = client.post("/v1/models/scale:predict", json={"inputs": inputs})
        assert (answer_ok := answered.status_code == 200) is is_right, (answer_ok, inputs, answered.text)
    assert "/v1/pipelines/route:run" in document["paths"]


def test_every_route_of_inference_is_in_the_document(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for name in ("scale", "talk"):
        for path in (
            f"/v1/models/{name}:predict",
            f"/v1/models/{name}/versions/1:predict",
            f"/v1/models/{name}:batch",
            f"/v1/{name}/predict",
            f"/v2/models/{name}/infer",
            f"/v2/models/{name}/versions/1/infer",
            f"/rpc/{name}",
        ):
            assert "post" in paths[path], path
    for path in ("/v1/models/talk:stream", "/v1/models/talk/versions/1:stream", "/v2/models/talk/generate_stream"):
        assert list(paths[path]["post"]["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "text/event-stream" in paths["/v1/models/talk:predict"]["post"]["responses"]["200"]["content"]
    assert "/v1/models/scale:stream" not in paths, "it does not stream"
    assert "/v1/models/echo:batch" not in paths, "it declares no input"
    assert {"/v1/pipelines/route:run", "/v1/pipelines/route/versions/1:run", "/rpc/route"} <= paths.keys()
    assert "202" in paths["/rpc/{request_id}/cancel"]["post"]["responses"]
    assert "/v1/completions" not in paths, "no language model is served"


def test_the_page_needs_nothing_from_elsewhere_and_escapes(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for text in ("x FP32 [-1, 3]", "/v2/models/upper/infer", "models/scale:predict"):
        assert text in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "<script" not in answer.text
