"""gRPC while things change: a swap, a SIGTERM, a client that takes its call back."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
from tests.runtime.serving.processes import Podium, served, until
from tritonclient.grpc import service_pb2

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import time
    import numpy as np

    class Counting:
        runs = 0

        def infer(self, inputs):
            self.runs += 1
            time.sleep(float(inputs["sleep"].reshape(-1)[0]))
            return {"runs": np.array([[self.runs]], np.int64)}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: counting}
spec:
  version: "1"
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Counting"}
  inputs: [{name: sleep, dtype: FP32, shape: [-1, 1]}]
  outputs: [{name: runs, dtype: INT64, shape: [-1, 1]}]
  batching: {maxBatchSize: 1}
  rollout: {propagationSeconds: 1}
"""


@contextmanager
def counting(folder: Path) -> Iterator[tuple[Podium, str, grpc.Channel]]:
    """The process, the URL of its HTTP port and a channel to its gRPC port, once the model is ready."""
    with (
        served(folder, YAML, "--grpc-port", "0") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield server, server.url, channel


def ask(channel: grpc.Channel, sleep_s: float) -> grpc.Future:
    import numpy as np

    request = service_pb2.ModelInferRequest(
        model_name="counting", raw_input_contents=[np.array([[sleep_s]], np.float32).tobytes()]
    )
    request.inputs.add(name="sleep", datatype="FP32", shape=[1, 1])
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    return method.future(request, timeout=30)


def in_flight(url: str) -> int:
    return sum(each["in_flight"] for each in httpx.get(f"{url}/v1/models/counting/stats").json()["revisions"])


def test_a_call_taken_back_while_it_waits_never_runs(tmp_path: Path) -> None:
    with counting(tmp_path) as (_, url, channel):
        before = int.from_bytes(ask(channel, 0).result().raw_output_contents[0], "little")
        running = ask(channel, 2)
        until(lambda: in_flight(url) == 1, "the first call is in")
        waiting = ask(channel, 0)
        until(lambda: in_flight(url) == 2, "the second call is in")
        waiting.cancel()
        until(lambda: in_flight(url) == 1, "the second call has gone")
        assert not running.done()
        running.result()
        after = int.from_bytes(ask(channel, 0).result().raw_output_contents[0], "little")
        assert after == before + 2


def test_nothing_fails_in_a_swap_under_load(tmp_path: Path) -> None:
    with counting(tmp_path) as (_, _url, channel):
        swapped = threading.Event()

        def load() -> int:
            count = 0
            while not swapped.is_set():
                if ask(channel, 0.002).result().model_version == "2":
                    swapped.set()
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            (tmp_path / "served.yaml").write_text(YAML.replace('version: "1"', 'version: "2"'))
            assert all(each.result(60) for each in loads)


def test_a_call_under_way_is_answered_after_sigterm(tmp_path: Path) -> None:
    with counting(tmp_path) as (process, url, channel):
        call = ask(channel, 3)
        until(lambda: in_flight(url) == 1, "the call is in")
        process.signal(signal.SIGTERM)
        assert call.result().model_name == "counting"
        assert process.ends() == 0
