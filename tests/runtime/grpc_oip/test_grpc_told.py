"""What is told of gRPC calls, and to whom: spans at a real collector, the access log, and the index of versions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from tests.runtime.grpc_oip.test_grpc import YAML, a_raw, infer
from tests.runtime.serving.processes import Server, served, until
from tests.support.collector import Collector, collecting
from tritonclient.grpc import service_pb2

KEY = "a-key-of-enough-characters-0123456789"
BEARER = (("authorization", f"Bearer {KEY}"),)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE}-{CALLER}-01")
PATH = "/inference.GRPCInferenceService/ModelInfer"
FAILING = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: broken-code}
data:
  models.py: |
    class Broken:
        def __init__(self):
            raise RuntimeError("a-secret-of-the-model")

        def infer(self, inputs):
            return inputs
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: broken}
spec:
  source: {uri: "configmap://broken-code"}
  engine: Python
  python: {entrypoint: "models:Broken"}
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    """Guarded, traced, with an access log."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "keys").write_text(f"alice: {KEY}\n")
    arguments = ("--grpc-port", "0", "--api-key-file", str(folder / "keys"))
    with served(folder, YAML, *arguments, PODIUM_ACCESS_LOG="true", **collector.environment) as made:
        yield made


def address(server: Server) -> str:
    return f"127.0.0.1:{server.grpc_port}"


def line_of(server: Server, request_id: str) -> str:
    return until(lambda: next((line for line in server.lines if request_id in line), None), f"a line of {request_id}")


def test_a_sampled_call_gets_spans_below_its_callers_and_another_gets_none(
    server: Server, collector: Collector
) -> None:
    infer(address(server), a_raw(bytes(8)), metadata=BEARER)
    infer(address(server), a_raw(bytes(8)), metadata=(*BEARER, SAMPLED, ("x-request-id", "r-traced")))
    until(lambda: [span for span in collector.spans if span.name == f"POST {PATH}"], "the call's span")
    spans = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    assert len(spans) == len(collector.spans)
    [root] = [span for span in spans if span.name == f"POST {PATH}"]
    assert root.parent_span_id.hex() == CALLER
    assert {span.name for span in spans if span is not root} == {"queue scale", "infer scale"}
    assert {span.parent_span_id for span in spans if span is not root} == {root.span_id}
    facts = {fact.key: fact.value.string_value or fact.value.int_value for fact in root.attributes}
    assert facts["podium.request_id"] == "r-traced"
    assert facts["http.response.status_code"] == 200
    assert facts["podium.revision"].startswith("scale-")


def test_a_call_that_fails_in_the_model_has_a_span_that_says_so(server: Server, collector: Collector) -> None:
    import numpy as np

    trace = TRACE[::-1]
    sent = (*BEARER, ("traceparent", f"00-{trace}-{CALLER}-01"))
    with pytest.raises(grpc.RpcError):
        infer(address(server), a_raw(np.full((1, 2), -1, np.float32).tobytes()), metadata=sent)

    def root() -> object:
        found = [span for span in collector.spans if span.trace_id.hex() == trace and span.name.startswith("POST")]
        return found[0].status.code == found[0].status.STATUS_CODE_ERROR if found else None

    until(root, "the failed call's span")


def test_the_access_log_has_a_line_of_each_call_as_of_each_request(server: Server) -> None:
    sent = (*BEARER, ("x-request-id", "r-answered"), ("traceparent", f"00-{'ab' * 16}-{CALLER}-00"))
    infer(address(server), a_raw(b"payload!"), metadata=sent)
    line = line_of(server, "r-answered")
    for fact in ("request", "POST", PATH, "200", "alice", "ab" * 16):
        assert fact in line
    assert re.search(r"scale-[0-9a-f]+", line)
    with pytest.raises(grpc.RpcError):
        infer(address(server), a_raw(bytes(8)), metadata=(("x-request-id", "r-refused"),))
    refused = line_of(server, "r-refused")
    assert "401" in refused
    assert "alice" not in refused
    everything = "\n".join(server.lines)
    assert KEY not in everything
    assert "payload!" not in everything


METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\xff" + bytes(1 << 19)])
def test_bytes_that_are_no_message_are_refused_without_a_traceback(server: Server, method: str, garbage: bytes) -> None:
    lines = len(server.lines)
    with grpc.insecure_channel(address(server)) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", bytes, bytes)
        sent = call.future(garbage, timeout=20, metadata=(*BEARER, ("x-request-id", f"r-{method}")))
        assert sent.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(sent.trailing_metadata())["podium-code"] == "invalid_input"
    if method == "ModelInfer":
        assert "422" in line_of(server, "r-ModelInfer")
    assert not [line for line in server.lines[lines:] if "Traceback" in line or "DecodeError" in line]


def test_a_call_without_a_key_is_refused_before_it_is_read(server: Server) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        call = channel.unary_unary(PATH, bytes, bytes)
        assert call.future(b"\xff\xff\xff", timeout=20).code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_id_in_the_message_is_the_calls_where_the_metadata_has_none(server: Server) -> None:
    request = a_raw(bytes(8))
    request.id = "r-of-the-message"  # type: ignore[attr-defined]
    infer(address(server), request, metadata=BEARER)
    assert PATH in line_of(server, "r-of-the-message")
    infer(address(server), request, metadata=(*BEARER, ("x-request-id", "r-of-the-metadata")))
    assert PATH in line_of(server, "r-of-the-metadata")


def index(server: Server, **more: object) -> dict[str, tuple[str, str, str]]:
    with grpc.insecure_channel(address(server)) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryIndex",
            request_serializer=service_pb2.RepositoryIndexRequest.SerializeToString,
            response_deserializer=service_pb2.RepositoryIndexResponse.FromString,
        )
        answer = call(service_pb2.RepositoryIndexRequest(), timeout=20, **more)
    return {model.name: (model.version, model.state, model.reason) for model in answer.models}


def test_the_index_wants_a_key_over_both_ports_and_metadata_over_neither(server: Server) -> None:
    url = server.url + "/v2/repository/index"
    with pytest.raises(grpc.RpcError) as refused:
        index(server)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert httpx.post(url).status_code == 401
    entries = httpx.post(url, headers={"authorization": f"Bearer {KEY}"}).json()
    assert {entry.pop("name"): tuple(entry.values()) for entry in entries} == index(server, metadata=BEARER)
    assert httpx.get(server.url + "/v2/models/scale").status_code == 200


def test_the_index_gives_a_failures_reason_and_not_its_message_over_both_ports(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(FAILING)
    settings = {"PODIUM_STATE_DIR": str(tmp_path / "state"), "PODIUM_ARENA_BYTES": str(16 << 20)}
    made = Server(("serve", "-f", str(file), "--port", "0", "--grpc-port", "0"), settings)
    try:
        until(lambda: index(made).get("broken", ("", "", ""))[1] == "UNAVAILABLE", "the model has failed")
        [entry] = httpx.post(made.url + "/v2/repository/index").json()
        assert index(made)["broken"] == (entry["version"], entry["state"], entry["reason"])
        assert entry["reason"]
        assert "a-secret-of-the-model" not in json.dumps(entry)
    finally:
        made.stop()
