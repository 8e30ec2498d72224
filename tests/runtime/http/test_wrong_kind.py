"""A pipeline asked as a model, or a model as a pipeline: 404, and the path that would have been right."""

import httpx
import pytest

from podium.http.inference.routes import HotRoute, right_path
from podium_crds.assignment import ResourceKind

TEXT = {"inputs": {"text": ["hello"]}}
MODEL, PIPELINE = (ResourceKind.MODEL, "upper"), (ResourceKind.PIPELINE, "route")


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ("/v1/models/route:predict", "/v1/pipelines/route:run"),
        ("/v1/models/route/versions/1:predict", "/v1/pipelines/route/versions/1:run"),
        ("/v1/pipelines/route:predict", "/v1/pipelines/route:run"),
        ("/v1/models/route:run", "/v1/pipelines/route:run"),
        ("/v1/models/route:batch", "/v1/pipelines/route:run"),
        ("/v1/pipelines/upper:run", "/v1/models/upper:predict"),
        ("/v1/models/upper:run", "/v1/models/upper:predict"),
        ("/v1/models/upper:infer", "/v1/models/upper:predict"),
    ],
)
def test_the_answer_names_the_right_route(client: httpx.Client, asked: str, right: str) -> None:
    answer = client.post(asked, json=TEXT)
    error = answer.json()["error"]
    noun = "model" if "models" in right else "pipeline"
    name = right.split("/")[3].partition(":")[0]
    assert (answer.status_code, error["code"]) == (404, "wrong_kind")
    assert error["message"] == f"'{name}' is a {noun}: ask POST {right}"
    assert client.post(right, json=TEXT).status_code == 200


def test_what_is_not_served_at_all_is_said_as_before(client: httpx.Client) -> None:
    for path in ("/v1/models/nobody:predict", "/v1/pipelines/nobody:run"):
        answer = client.post(path, json=TEXT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert client.post("/v1/models/nobody:fly", json=TEXT).status_code == 405


def test_a_right_path_needs_no_advice() -> None:
    for path in ("/v1/models/upper:predict", "/v1/models/upper:batch", "/v1/pipelines/route/versions/2:stream"):
        assert right_path(path, {MODEL, PIPELINE}) is None
        assert HotRoute.of(path) is not None
    assert right_path("/v1/models/route:stream", {MODEL, PIPELINE}) == (PIPELINE[0], "/v1/pipelines/route:stream")
