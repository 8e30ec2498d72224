"""Pipelines of a real server: batches that form across them, slots handed on, streams through the last step."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.serving.processes import Server, served, until

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import time
    import numpy as np
    from podium import Model

    class Fresh(Model):
        def infer(self, inputs):
            return {"y": inputs["x"] + np.float32(1)}

    class InPlace(Model):
        def load(self, ctx):
            self.ctx = ctx

        def infer(self, inputs):
            y = self.ctx.output("y", inputs["x"].shape, inputs["x"].dtype)
            np.add(inputs["x"], np.float32(1), out=y)
            return {"y": y}

    class Slow(Model):
        def infer(self, inputs):
            time.sleep(0.05)
            return {"y": inputs["x"] + np.float32(1)}

    class Words(Model):
        def infer_stream(self, inputs):
            for n in range(int(inputs["n"].reshape(-1)[0])):
                if n == 13:
                    raise ValueError("thirteen is right out")
                yield {"word": np.array([f"w{n}"], object)}

    class Shouts(Model):
        def infer_stream(self, inputs):
            for n in range(int(inputs["n"].reshape(-1)[0])):
                yield {"word": np.array([f"W{n}!"], object), "tone": np.array(["high"], object)}

    class Slowly(Model):
        def infer_stream(self, inputs):
            while True:
                time.sleep(0.01)
                yield {"word": np.array(["more"], object)}

    class Fails(Model):
        def infer(self, inputs):
            raise ValueError("the far end is broken")
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: slow}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Slow"}
  inputs: [{name: x, dtype: FP32, shape: [-1, -1]}]
  outputs: [{name: y, dtype: FP32, shape: [-1, -1]}]
  batching: {maxBatchSize: 16, maxDelayMicroseconds: 200000}
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: left}
spec:
  models: [{name: work, modelRef: {name: slow}}]
  steps: [{name: one, model: work, inputs: [{name: x, from: request.x}]}]
  outputs: [{name: y, from: one.y}]
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: referring}
spec:
  placement: Referenced
  models: [{name: work, modelRef: {name: slow}}]
  steps: [{name: one, model: work, inputs: [{name: x, from: request.x}]}]
  outputs: [{name: y, from: one.y}]
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: right}
spec:
  models: [{name: job, modelRef: {name: slow}}]
  steps:
    - {name: one, model: job, inputs: [{name: x, from: request.x}]}
    - {name: two, model: job, inputs: [{name: x, from: request.x}]}
  outputs: [{name: a, from: one.y}, {name: b, from: two.y}]
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: chain}
spec:
  models:
    - name: fresh
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Fresh"}
        inputs: [{name: x, dtype: FP32, shape: [-1, 12288]}]
        outputs: [{name: y, dtype: FP32, shape: [-1, 12288]}]
    - name: inplace
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:InPlace"}
        inputs: [{name: x, dtype: FP32, shape: [-1, 12288]}]
        outputs: [{name: y, dtype: FP32, shape: [-1, 12288]}]
  steps:
    - {name: a, model: inplace, inputs: [{name: x, from: request.x}]}
    - {name: b, model: inplace, inputs: [{name: x, from: a.y}]}
    - {name: c, model: fresh, inputs: [{name: x, from: b.y}]}
  outputs: [{name: y, from: c.y}]
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: talk}
spec:
  models:
    - name: words
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Words"}
        inputs: [{name: n, dtype: INT64, shape: [-1]}]
        outputs: [{name: word, dtype: BYTES, shape: [-1]}]
    - name: fresh
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Fresh"}
    - name: slowly
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Slowly"}
    - name: fails
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Fails"}
  steps:
    - {name: first, model: fresh, inputs: [{name: x, from: request.x}]}
    - {name: loud, model: words, when: {from: request.mode, equals: talk}, inputs: [{name: n, from: request.n}]}
    - {name: drawl, model: slowly, when: {from: request.mode, equals: slowly}, inputs: [{name: n, from: request.n}]}
    - {name: quiet, model: fresh, when: {from: request.mode, equals: be still}, inputs: [{name: x, from: first.y}]}
    - {name: broken, model: fails, when: {from: request.mode, equals: break}, inputs: [{name: x, from: first.y}]}
  outputs:
    - {name: word, from: loud.word}
    - {name: drawled, from: drawl.word}
    - {name: still, from: quiet.y}
    - {name: broken, from: broken.y}
    - {name: seen, from: first.y}
---
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: choice}
spec:
  models:
    - name: words
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Words"}
        inputs: [{name: n, dtype: INT64, shape: [-1]}]
        outputs: [{name: word, dtype: BYTES, shape: [-1]}]
    - name: shouts
      inline:
        source: {uri: "configmap://code"}
        engine: Python
        python: {entrypoint: "models:Shouts"}
        inputs: [{name: n, dtype: INT64, shape: [-1]}]
        outputs: [{name: word, dtype: BYTES, shape: [-1]}, {name: tone, dtype: BYTES, shape: [-1]}]
  steps:
    - {name: shout, model: shouts, when: {from: request.mode, equals: loud}, inputs: [{name: n, from: request.n}]}
    - {name: speak, model: words, inputs: [{name: n, from: request.n}]}
    - name: whisper
      model: shouts
      when: {from: request.mode, notEquals: loud, and: [{from: request.mode, notEquals: calm}]}
      inputs: [{name: n, from: request.n}]
  outputs:
    - {name: word, fromFirst: [shout.word, whisper.word, speak.word]}
    - {name: tone, fromFirst: [whisper.tone, shout.tone]}
"""


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("pipelines"), YAML, arena_mib=64) as server:
        yield server


Samples = dict[tuple[str, ...], float]


def series(server: Server, name: str, *labels: str) -> Samples:
    """Samples of a series by the values of its labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(httpx.get(server.url + "/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] = sample.value
    return found


def ask(server: Server, pipeline: str, inputs: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/pipelines/{pipeline}:run", json={"inputs": inputs}, timeout=30)


def outputs(response: httpx.Response) -> dict[str, object]:
    assert response.status_code == 200, response.text
    return {name: value["data"] for name, value in response.json()["outputs"].items()}


def ask_binary(server: Server, value: float) -> NDArray[np.float32]:
    """The chain's answer, by the binary extension of the Open Inference Protocol: the body is read into a slot."""
    x = np.full(12288, value, np.float32).tobytes()
    declared = {"name": "x", "datatype": "FP32", "shape": [1, 12288], "parameters": {"binary_data_size": len(x)}}
    head = json.dumps({"inputs": [declared], "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(head))}
    answer = httpx.post(f"{server.url}/v2/models/chain/infer", content=head + x, headers=length, timeout=30)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content[int(answer.headers["inference-header-content-length"]) :], np.float32)


def test_a_batch_forms_across_requests_steps_and_pipelines(pipelines: Server) -> None:
    """One group serves the model, both pipelines and both steps: 4 requests with 6 calls make fewer batches."""
    labels = ("model", "member")
    before = series(pipelines, "podium_batch_size_count", *labels)
    rows_before = series(pipelines, "podium_batch_size_sum", *labels)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, pipelines, name, {"x": [[1.0]]}) for name in ("left", "right", "left", "right")]
        answers = [outputs(future.result()) for future in asked]
    assert answers == [{"y": [[2.0]]}, {"a": [[2.0]], "b": [[2.0]]}] * 2
    batches = {key: count - before[key] for key, count in series(pipelines, "podium_batch_size_count", *labels).items()}
    rows = {key: rows - rows_before[key] for key, rows in series(pipelines, "podium_batch_size_sum", *labels).items()}
    shared = [("left", "work"), ("right", "job"), ("slow", "slow")]
    assert {rows[key] for key in shared} == {6.0}, "all three show the one group"
    assert batches[shared[0]] < 6


@pytest.mark.parametrize("clients", [1, 40])
def test_a_chain_gathers_at_most_once_a_batch_and_stores_at_most_once_an_output(
    pipelines: Server, clients: int
) -> None:
    names = ("model", "member", "step")
    copied, counted = "podium_tensor_copies_total", "podium_batch_size_count"
    before, batches_before = series(pipelines, copied, *names), series(pipelines, counted, "model", "member")
    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(ask_binary, pipelines, float(n)) for n in range(clients * 3)]
        answers = [future.result() for future in asked]
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, np.full(12288, n + 3, np.float32))
    copies = {key: value - before[key] for key, value in series(pipelines, copied, *names).items()}
    batches = {key: value - batches_before[key] for key, value in series(pipelines, counted, "model", "member").items()}
    for member in ("inplace", "fresh"):
        ran = batches["chain", member]
        gathers, stores = copies["chain", member, "gather"], copies["chain", member, "store"]
        assert gathers <= ran, "one input: at most one gather for each batch"
        assert stores <= (ran if member == "fresh" else 0), "one output: one store, and none that was written in place"
        if clients == 1:
            assert gathers == 0, "a request alone in its batch is handed over as it is"


def events(response: httpx.Response) -> list[tuple[str, dict[str, object]]]:
    """Kind and data of each event."""
    found = []
    for block in response.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", "chunk"), json.loads(lines["data"])))
    return found


def talk(server: Server, mode: str, n: int = 3, verb: str = ":stream", **headers: str) -> httpx.Response:
    typed = {
        "x": {"dtype": "FP32", "shape": [1], "data": [1.0]},
        "mode": {"dtype": "BYTES", "shape": [1], "data": [mode]},
    }
    body = {"inputs": {**typed, "n": [n]}}
    return httpx.post(f"{server.url}/v1/pipelines/talk{verb}", json=body, headers=headers, timeout=30)


def test_a_branch_that_ends_in_a_streaming_step_streams(pipelines: Server) -> None:
    for answer in (talk(pipelines, "talk"), talk(pipelines, "talk", verb=":run", accept="text/event-stream")):
        assert answer.headers["content-type"] == "text/event-stream", answer.text
        *chunks, end = events(answer)
        words = [chunk["outputs"]["word"]["data"] for _, chunk in chunks]  # type: ignore[index]
        assert words == [["w0"], ["w1"], ["w2"]]
        assert [sorted(chunk["outputs"]) for _, chunk in chunks] == [["seen", "word"], ["word"], ["word"]]  # type: ignore[call-overload]
        assert chunks[0][1]["outputs"]["seen"]["data"] == [2.0]  # type: ignore[index]
        assert end == ("end", {"chunks": 3})


def choose(server: Server, mode: str) -> list[dict[str, list[str]]]:
    """Chunks of the pipeline that joins three streaming steps, as plain lists."""
    typed = {"mode": {"dtype": "BYTES", "shape": [1], "data": [mode]}, "n": [2]}
    answer = httpx.post(f"{server.url}/v1/pipelines/choice:stream", json={"inputs": typed}, timeout=30)
    assert answer.status_code == 200, answer.text
    *chunks, (kind, end) = events(answer)
    assert (kind, end) == ("end", {"chunks": len(chunks)})
    found: list[dict[str, Any]] = [chunk["outputs"] for _, chunk in chunks]  # type: ignore[index]
    return [{name: tensor["data"] for name, tensor in outputs.items()} for outputs in found]


def test_the_branch_of_a_join_that_a_request_takes_streams_to_the_end(pipelines: Server) -> None:
    loud = [{"word": [f"W{n}!"], "tone": ["high"]} for n in range(2)]
    assert choose(pipelines, "loud") == loud
    assert choose(pipelines, "soft") == loud
    assert choose(pipelines, "calm") == [{"word": ["w0"]}, {"word": ["w1"]}]


def test_a_step_that_streams_is_timed_to_its_end(pipelines: Server) -> None:
    name, labels = "podium_step_duration_seconds_count", ("model", "step")
    before = series(pipelines, name, *labels).get(("talk", "loud"), 0)
    talk(pipelines, "talk")
    until(lambda: series(pipelines, name, *labels).get(("talk", "loud"), 0) == before + 1, "the step is counted")


def test_a_branch_that_does_not_stream_is_one_chunk(pipelines: Server) -> None:
    chunk, end = events(talk(pipelines, "be still"))
    assert {name: value["data"] for name, value in chunk[1]["outputs"].items()} == {"still": [3.0], "seen": [2.0]}  # type: ignore[attr-defined]
    assert end == ("end", {"chunks": 1})


def failures(server: Server, step: str) -> float:
    """Requests of the pipeline that failed at the step."""
    return series(server, "podium_step_failures_total", "model", "step").get(("talk", step), 0)


def test_a_stream_that_breaks_names_the_step_and_counts_there(pipelines: Server) -> None:
    before = {step: failures(pipelines, step) for step in ("loud", "broken")}
    *_, (kind, broken) = events(talk(pipelines, "talk", n=20))
    assert kind == "error"
    assert "step loud" in broken["error"]["message"]  # type: ignore[index]
    assert "thirteen" in broken["error"]["message"]  # type: ignore[index]
    before_a_byte = talk(pipelines, "break")
    assert before_a_byte.status_code == 500
    assert "step broken" in before_a_byte.json()["error"]["message"]
    assert {step: failures(pipelines, step) - count for step, count in before.items()} == {"loud": 1, "broken": 1}


def test_what_only_streams_cannot_be_asked_for_at_once_and_the_other_way_round(pipelines: Server) -> None:
    at_once = talk(pipelines, "talk", verb=":run")
    assert at_once.status_code == 406
    assert "step loud" in at_once.json()["error"]["message"]
    body = {"inputs": {"x": [[1.0]]}}
    streamed = httpx.post(f"{pipelines.url}/v1/pipelines/left:stream", json=body)
    assert streamed.status_code == 406
    assert "none of its last steps (one)" in streamed.json()["error"]["message"]


def test_a_pipeline_answers_as_a_model_of_the_open_inference_protocol(pipelines: Server) -> None:
    described = httpx.get(f"{pipelines.url}/v2/models/chain").json()
    assert [tensor["name"] for tensor in described["inputs"]] == ["x"]
    assert httpx.get(f"{pipelines.url}/v2/models/chain/ready").status_code == 200
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 12288], "data": [0.5] * 12288}]}
    answer = httpx.post(f"{pipelines.url}/v2/models/chain/infer", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [3.5] * 12288
    words = {"inputs": []}
    assert httpx.post(f"{pipelines.url}/v2/models/talk/infer", json=words).status_code == 422


def test_a_reference_to_a_model_of_the_same_process_is_resolved_there(pipelines: Server) -> None:
    labels = ("model", "member")
    before = series(pipelines, "podium_batch_size_sum", *labels)["slow", "slow"]
    assert outputs(ask(pipelines, "referring", {"x": [[1.0]]})) == {"y": [[2.0]]}
    after = series(pipelines, "podium_batch_size_sum", *labels)
    assert after["slow", "slow"] == before + 1
    assert ("referring", "work") not in after, "nothing is loaded for it"


def test_no_slot_is_left_when_every_answer_has_gone(pipelines: Server) -> None:
    for mode in ("talk", "be still", "break"):
        talk(pipelines, mode)

    def used() -> float:
        return sum(
            value
            for (_, state), value in series(pipelines, "podium_arena_bytes", "class", "state").items()
            if state == "used"
        )

    until(lambda: used() == 0, "no used byte")
