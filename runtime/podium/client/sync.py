"""`Client`: blocking calls over one keep-alive connection pool. Needs httpx alone; numpy arrays are taken if given."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from podium.client.connection import ClientError, Connection

PIPELINE = "InferencePipeline"
OIP_NAMES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs in the form of `:predict`, and who answered."""

    outputs: dict[str, Any]
    revision: str
    version: str
    timing: str = ""
    """The answer's Server-Timing header, where it was asked for."""


class Client(Connection):
    """Calls models and pipelines at one address. Not retried: what to do about a 503 is the caller's choice."""

    def models(self) -> list[dict[str, Any]]:
        """What is served there, models and pipelines."""
        listed: list[dict[str, Any]] = self._request("GET", "/v1/models").json()["data"]
        return listed

    def predict(
        self, name: str, inputs: Mapping[str, Any], *, version: str | None = None, explain: bool = False
    ) -> Answer:
        """Asks a model or a pipeline. Values: plain JSON data for declared inputs, the full form, or numpy arrays.

        `explain`: also where the time went, see Answer.timing.
        """
        body = {"inputs": {key: _tensor(value) for key, value in inputs.items()}}
        headers = {"podium-explain": "1"} if explain else {}
        response = self._request("POST", self._path(name, version), body, headers)
        answer = response.json()
        timing = response.headers.get("server-timing", "")
        return Answer(answer["outputs"], answer["revision"], answer["version"], timing)

    def stream(self, name: str, inputs: Mapping[str, Any], *, version: str | None = None) -> Iterator[dict[str, Any]]:
        """Asks a model for an answer in chunks: outputs by name, as they come. Leaving the loop ends the stream.

        Raises ClientError, also in the middle: chunks before it are real, and the answer is not complete.
        """
        middle = f"/versions/{quote(version, safe='')}" if version else ""
        path = f"/v1/models/{quote(name, safe='')}{middle}:stream"
        body = {"inputs": {key: _tensor(value) for key, value in inputs.items()}}
        try:
            with self._http.stream("POST", path, json=body) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                yield from _chunks(response.iter_lines())
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ClientError(f"the stream from {self._http.base_url} broke: {reason}") from error

    def _path(self, name: str, version: str | None) -> str:
        kinds = {entry["kind"] for entry in self.models() if entry["id"] == name}
        family, verb = ("pipelines", "run") if kinds == {PIPELINE} else ("models", "predict")
        middle = f"/versions/{quote(version, safe='')}" if version else ""
        return f"/v1/{family}/{quote(name, safe='')}{middle}:{verb}"

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ClientError(f"no answer from {self._http.base_url}: {reason}") from error
        if response.is_success:
            return response
        raise _refusal(response)


def _chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Outputs of each event up to the last one. Raises ClientError for an error event, and where no end came."""
    kind = "message"
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            kind = value
        elif field == "data" and kind == "message":
            yield json.loads(value)["outputs"]
        elif field == "data" and kind == "error":
            error = json.loads(value)["error"]
            raise ClientError(error["message"], None, error["code"])
        elif field == "data":
            return
    raise ClientError("the stream ended before its end event: the answer is not complete")


def _refusal(response: httpx.Response) -> ClientError:
    try:
        error = response.json()["error"]
        return ClientError(f"{response.status_code} {error['message']}", response.status_code, error["code"])
    except (ValueError, KeyError, TypeError):
        return ClientError(f"{response.status_code} {response.text[:200]}", response.status_code)


def _tensor(value: Any) -> Any:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return value
    return {"dtype": OIP_NAMES.get(str(dtype), "BYTES"), "shape": list(value.shape), "data": value.tolist()}
