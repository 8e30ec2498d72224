"""The wire of the test models: Open Inference Protocol v2 as JSON, and named tensors in server-sent events."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from e2e.probers.events import events
from e2e.probers.http1 import Answer, Client, Request
from e2e.probers.load import NUMBER, RATE_PER_S, Load


def path(name: str) -> str:
    """Where a model or pipeline answers."""
    return f"/v2/models/{name}/infer"


def body(number: object, delay: float = 0) -> str:
    """One row; `number` may be a placeholder."""
    inputs: list[dict[str, Any]] = [
        {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": ["@"]},
        {"name": "delay", "shape": [1, 1], "datatype": "FP32", "data": [delay]},
    ]
    return json.dumps({"inputs": inputs}).replace('"@"', str(number))


def number(text: str) -> float:
    """The number in an answer; raises what `probers.ledger.Numbers` names."""
    if text.startswith("data:"):
        return _streamed(text)
    outputs = json.loads(text)["outputs"]
    (value,) = next(output for output in outputs if output["name"] == "y")["data"]
    return float(value)


def load(
    host: str, port: int, name: str, *, long_s: float = 0.0, streams: bool = False, rate_per_s: float = RATE_PER_S
) -> Load:
    """Requests at that rate from 10 clients, and 4 clients with requests of `long_s` back to back unless that is 0.

    With `streams` the long ones are answered in chunks over that time.
    """
    where, long_body = "", body(NUMBER, long_s) if long_s else ""
    if long_body and streams:
        where, long_body = f"/v1/models/{name}:stream", stream_body(NUMBER, long_s)
    return Load(
        host=host,
        port=port,
        path=path(name),
        body=body(NUMBER),
        long_path=where,
        long_body=long_body,
        rate_per_s=rate_per_s,
        timeout_s=15.0,
    )


def stream_body(value: object, over_s: float) -> str:
    """One row to be answered in chunks over that many seconds; `value` may be a placeholder."""
    return json.dumps({"inputs": {"x": [["@"]], "delay": [[over_s]]}}).replace('"@"', str(value))


def _streamed(text: str) -> float:
    """The number that every chunk of a whole stream carries."""
    chunks = [json.loads(event.data)["outputs"]["y"]["data"] for event in events(text) if not event.name]
    found = {float(value) for data in chunks for value in _flat(data)}
    if len(found) != 1:
        raise ValueError(f"chunks of one stream carry {sorted(found)}")
    return found.pop()


def _flat(data: Any) -> list[Any]:
    return [value for each in data for value in _flat(each)] if isinstance(data, list) else [data]


def ask(host: str, port: int, name: str, value: float, *, delay: float = 0, timeout_s: float = 30.0) -> Answer:
    """One request on a connection of its own; raises `probers.http1.RequestError`."""
    return post(host, port, path(name), body(value, delay), timeout_s=timeout_s)


def post(host: str, port: int, where: str, text: str, *, timeout_s: float = 30.0) -> Answer:
    """POST one JSON body."""

    async def once() -> Answer:
        client = Client(host, port, timeout_s)
        try:
            return await client.send(Request(where, text.encode()))
        finally:
            await client.close()

    return asyncio.run(once())
