"""What each server is asked and answers: bodies of requests, and the numbers in an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Wire:
    """One server's JSON."""

    path: str
    encode: Callable[[Sequence[float], str], bytes]
    """Body of a request from its numbers and an id."""
    decode: Callable[[bytes], list[float]]
    """Numbers of an answer, flat."""
    ends_at: str = ""
    """What follows this text in an answer differs from one answer to the next, and is not compared."""


def oip(model: str) -> Wire:
    """Open Inference Protocol, one row of FP32 named x."""
    return Wire(f"/v2/models/{model}/infer", _encode_oip, lambda raw: _numbers(orjson.loads(raw)["outputs"][0]["data"]))


def plain(path: str) -> Wire:
    """{"x": […]} → {"y": […]}."""
    return Wire(path, lambda x, _: orjson.dumps({"x": list(x)}), lambda raw: _numbers(orjson.loads(raw)["y"]))


def forge() -> Wire:
    """{"input": […]} → {"output": […], "request_id", "latency_ms"}."""
    return Wire(
        "/v1/echo/predict",
        lambda x, _: orjson.dumps({"input": list(x)}),
        lambda raw: _numbers(orjson.loads(raw)["output"]),
        ends_at='"request_id"',
    )


def _encode_oip(x: Sequence[float], request_id: str) -> bytes:
    tensor = {"name": "x", "shape": [1, len(x)], "datatype": "FP32", "data": list(x)}
    return orjson.dumps({"id": request_id, "inputs": [tensor]})


def _numbers(value: Any) -> list[float]:
    return [float(number) for number in value]
