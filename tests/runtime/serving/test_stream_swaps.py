"""Streams while their pod changes under them: a new revision, the drain. Real processes, real sockets."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.runtime.serving.builders import a_revision, an_assignment
from tests.runtime.serving.processes import RunningPod, running_pod, until

from podium_crds.assignment import Probe, Revision

CODE = """
import os
import numpy as np

class Scale:
    def load(self, ctx):
        self.factor = ctx.parameters["factor"]
        self.folder = ctx.parameters["folder"]

    async def infer_stream(self, inputs):
        import asyncio
        for step in range(int(inputs["x"][0])):
            while step == 2 and not os.path.exists(self.folder + "/go"):
                await asyncio.sleep(0.01)
            yield {"y": np.array([step * self.factor], np.float32)}
"""
STREAM = "/v1/models/scale:stream"


def a_streaming(factor: float, folder: Path, **fields: Any) -> Revision:
    return a_revision(factor, code=CODE, parameters={"folder": str(folder)}, **fields)


class Reader:
    """Reads the events of one stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.revision = response.headers["podium-revision"]
        self._lines: Iterator[str] = response.iter_lines()

    def next_data(self) -> dict[str, Any]:
        """Data of the next event."""
        found: dict[str, Any] = json.loads(next(line for line in self._lines if line.startswith("data: "))[6:])
        return found

    def rest(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self._lines if line.startswith("data: ")]


def values(events: list[dict[str, Any]]) -> list[float]:
    return [event["outputs"]["y"]["data"][0] for event in events if "outputs" in event]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[RunningPod]:
    """With revision scale-2, which answers in chunks alone and passed its warm-up and its smoke test."""
    with running_pod(tmp_path) as running:
        probe = Probe(inputs={"x": [2.0]}, expect={"y": [0.0, 2.0]})
        assert running.push(an_assignment(1, a_streaming(2, tmp_path, smoke_test=probe))).status_code == 200
        running.serves("scale-2")
        yield running


def test_a_stream_ends_on_the_revision_that_began_it(pod: RunningPod, tmp_path: Path) -> None:
    old, new = a_streaming(2, tmp_path), a_streaming(3, tmp_path)
    with httpx.Client(base_url=pod.url, timeout=30) as client:
        with client.stream("POST", STREAM, json={"inputs": {"x": [4]}}) as response:
            reader = Reader(response)
            assert values([reader.next_data()]) == [0.0]
            pod.push(an_assignment(2, new, old))
            pod.serves("scale-3")
            pod.push(an_assignment(3, new))
            pod.reports(lambda r: (found := r.revision("scale-2")) is not None and found.state == "Draining")
            (tmp_path / "go").touch()
            assert values(reader.rest()) == [2.0, 4.0, 6.0]
            assert reader.revision == "scale-2"
        answer = client.post(STREAM, json={"inputs": {"x": [2]}})
        assert answer.headers["podium-revision"] == "scale-3"
    pod.reports(lambda r: r.revision("scale-2") is None)


def test_a_drain_waits_for_a_stream(pod: RunningPod, tmp_path: Path) -> None:
    with (
        httpx.Client(base_url=pod.url, timeout=30) as client,
        client.stream("POST", STREAM, json={"inputs": {"x": [4]}}) as response,
    ):
        reader = Reader(response)
        assert values([reader.next_data()]) == [0.0]
        pod.signal(signal.SIGTERM)
        until(lambda: httpx.get(pod.url + "/health/ready").status_code == 503, "not ready any more")
        (tmp_path / "go").touch()
        assert values(reader.rest()) == [2.0, 4.0, 6.0]
    assert pod.ends() == 0
