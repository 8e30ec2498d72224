"""Routes that clients of the merged systems know."""

import httpx
import pytest


def test_a_batch_of_items_is_stacked_and_split_again(client: httpx.Client) -> None:
    answer = client.post("/v1/models/scale:batch", json={"data": [[1, 2, 3], [4, 5, 6]]})
    assert answer.json() == {"data": [[2, 4, 6], [8, 10, 12]]}
    assert client.post("/v1/models/upper/versions/2.5:batch", json={"data": ["a", "b"]}).json() == {"data": ["A", "B"]}


def test_one_item_comes_back_without_a_batch_dimension(client: httpx.Client) -> None:
    answer = client.post("/v1/scale/predict", json={"input": [1.0, 2.0, 3.0], "dtype": "float32"})
    assert (answer.json()["model"], answer.json()["output"]) == ("scale", [2, 4, 6])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert client.post("/v1/scale/predict", json={"input": [[1, 2, 3]]}).json()["output"] == [[2, 4, 6]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/scale:batch", {"data": "abc"}),
        ("/v1/models/scale:batch", {"data": []}),
        ("/v1/models/scale:batch", {"data": [[1, 2, 3]], "more": 1}),
        ("/v1/models/echo:batch", {"data": [[1, 2, 3]]}),
        ("/v1/scale/predict", {"input": None}),
        ("/v1/scale/predict", {"input": [1, 2]}),
        ("/v1/scale/predict", {"input": [1, 2, 3], "dtype": "float99"}),
        ("/v1/scale/predict", {"input": [1, 2, 3], "dtype": "int64"}),
    ],
)
def test_what_they_cannot_take_is_422(client: httpx.Client, path: str, body: object) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


def test_numpy_names_of_types_are_taken(client: httpx.Client) -> None:
    inputs = {"x": {"dtype": "float32", "shape": [1, 3], "data": [1, 2, 3]}}
    assert client.post("/v1/models/scale:predict", json={"inputs": inputs}).status_code == 200


def test_health_summaries_and_catalogue_answer(client: httpx.Client) -> None:
    for path in ("/health", "/v1/health"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert answer.json()["models"]["scale"]["ready"] is True
    active = client.get("/v1/models/upper/active").json()
    assert (active["version"], active["loaded"]) == ("2.5", True)
    assert client.get("/v1/models/upper/stats").json()["revisions"][0]["in_flight"] == 0
