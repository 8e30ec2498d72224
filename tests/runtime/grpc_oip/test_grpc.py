"""The gRPC service of a real server, asked by an independent client library (tritonclient) and by hostile requests."""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tests.runtime.serving.processes import served
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from podium.grpc_oip.generate import HERE, generated

YAML = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  models.py: |
    import time
    import numpy as np

    class Echo:
        open = 0

        def infer(self, inputs):
            if "sleep" in inputs:
                time.sleep(float(inputs["sleep"].reshape(-1)[0]))
            return dict(inputs)

    class Scale:
        def infer(self, inputs):
            if (inputs["x"] < 0).any():
                raise ValueError("below zero")
            return {"y": inputs["x"] * np.float32(2)}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: echo}
spec:
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Echo"}
---
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: scale}
spec:
  version: "7"
  source: {uri: "configmap://code"}
  engine: Python
  python: {entrypoint: "models:Scale"}
  inputs: [{name: x, dtype: FP32, shape: [-1, 2]}]
  outputs: [{name: "y", dtype: FP32, shape: [-1, 2]}]
"""


def serving(folder: Path, *more: str) -> Iterator[str]:
    """Address of the gRPC port of a server, once both models are ready."""
    with served(folder, YAML, "--grpc-port", "0", *more, PODIUM_MAX_BODY_BYTES=str(4 << 20)) as server:
        yield f"127.0.0.1:{server.grpc_port}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serving(tmp_path_factory.mktemp("grpc"))


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as made:
        yield made


def an_input(name: str, array: NDArray[np.generic], dtype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array)
    return made


def infer(address: str, request: service_pb2.ModelInferRequest, **more: object) -> service_pb2.ModelInferResponse:
    """As the wire has it, whatever a client library would refuse to send."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        return call(request, timeout=20, **more)


def test_the_stubs_are_those_of_the_protocol_file() -> None:
    assert {name: (HERE / name).read_bytes() for name in generated()} == generated()


def test_metadata_and_readiness(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "podium"
    assert client.is_model_ready("scale")
    assert client.is_model_ready("scale", "7")
    metadata = client.get_model_metadata("scale")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("scale", ["7"], "podium_python")
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("x", "FP32", [-1, 2])]
    index = {model.name: (model.version, model.state) for model in client.get_model_repository_index().models}
    assert index["scale"] == ("7", "READY")


def test_an_inference_with_its_id_version_and_wanted_output(client: triton.InferenceServerClient) -> None:
    x = np.array([[1, 2], [3, 4]], np.float32)
    wanted = [triton.InferRequestedOutput("y")]
    result = client.infer("scale", [an_input("x", x, "FP32")], model_version="7", outputs=wanted, request_id="r-1")
    np.testing.assert_array_equal(result.as_numpy("y"), x * 2)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r-1", "scale", "7")


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_every_dtype_comes_back_raw(client: triton.InferenceServerClient, dtype: str) -> None:
    array = np.array([[0, 1, 1]], dtype)
    np.testing.assert_array_equal(client.infer("echo", [an_input("a", array, np_to_name(array))]).as_numpy("a"), array)


def np_to_name(array: NDArray[np.generic]) -> str:
    from tritonclient.utils import np_to_triton_dtype

    return str(np_to_triton_dtype(array.dtype))


def test_bytes_come_back_raw(client: triton.InferenceServerClient) -> None:
    array = np.array([b"", b"\xff\x00", "é".encode()], object)
    answer = client.infer("echo", [an_input("a", array, "BYTES")]).as_numpy("a")
    assert answer.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 1]),
        ("INT64", "int64_contents", [-(2**62), 1]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT64", "uint64_contents", [0, 2**63]),
        ("FP32", "fp32_contents", [0.5, -1]),
        ("FP64", "fp64_contents", [0.1, -1]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_typed_contents_are_read(address: str, datatype: str, field: str, values: list[object]) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo")
    given = request.inputs.add(name="a", datatype=datatype, shape=[2])
    getattr(given.contents, field).extend(values)
    answer = triton.InferResult(infer(address, request)).as_numpy("a")
    assert answer.tolist() == values


def a_raw(*raw: bytes, shape: tuple[int, ...] = (1, 2), datatype: str = "FP32", name: str = "x") -> object:
    request = service_pb2.ModelInferRequest(model_name="scale", raw_input_contents=raw)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"raw": (b"12345678", b"1")}, "2 entries for 1 inputs"),
        ({"raw": (b"1234567",)}, "takes 8 bytes, not 7"),
        ({"raw": (b"12345678",), "shape": (1 << 40, 2)}, "sizes from 0"),
        ({"raw": (b"12345678",), "shape": (-1, 2)}, "sizes from 0"),
        ({"raw": (b"12345678",), "datatype": "FP33"}, "expected one of BOOL"),
        ({"raw": (b"12345678",), "name": "z"}, "unknown input 'z'"),
        ({"raw": (b"12345678",), "shape": (1 << 20, 1 << 20, 1 << 20)}, "bytes"),
        ({"raw": (b"\xff\xff\xff\xff1234",), "shape": (1, 1), "datatype": "BYTES"}, "BYTES"),
        ({"raw": ()}, "0 elements"),
    ],
)
def test_what_is_wrong_is_named(address: str, change: dict[str, object], said: str) -> None:
    raw = change.pop("raw")
    with pytest.raises(grpc.RpcError) as refused:
        infer(address, a_raw(*raw, **change))  # type: ignore[misc,arg-type]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in refused.value.details()


def test_errors_have_the_codes_of_the_one_table(client: triton.InferenceServerClient, address: str) -> None:
    x = an_input("x", np.full((1, 2), -1, np.float32), "FP32")
    for name, code in (("scale", "INTERNAL"), ("absent", "NOT_FOUND")):
        with pytest.raises(InferenceServerException) as refused:
            client.infer(name, [x])
        assert refused.value.status() == f"StatusCode.{code}"
    big = a_raw(bytes(6 << 20), shape=(3 << 18, 2))
    with pytest.raises(grpc.RpcError) as refused_size:
        infer(address, big)  # type: ignore[arg-type]
    assert refused_size.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_clients_deadline_counts_and_the_server_goes_on(client: triton.InferenceServerClient) -> None:
    sleep = an_input("sleep", np.array([[0.5]], np.float32), "FP32")
    with pytest.raises(InferenceServerException) as late:
        client.infer("echo", [sleep], client_timeout=0.1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.infer("echo", [an_input("a", np.zeros((1,), np.int8), "INT8")]).as_numpy("a").tolist() == [0]


def test_many_calls_at_once_get_their_own_answers(client: triton.InferenceServerClient) -> None:
    def ask(n: int) -> bool:
        x = np.full((1, 2), n, np.float32)
        return bool((client.infer("scale", [an_input("x", x, "FP32")]).as_numpy("y") == 2 * n).all())

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_key_is_asked_for_where_the_server_has_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice: a-key-of-enough-characters-0123456789\n")
    for address in serving(tmp_path, "--api-key-file", str(tmp_path / "keys")):
        request = a_raw(bytes(8))
        with pytest.raises(grpc.RpcError) as refused:
            infer(address, request)  # type: ignore[arg-type]
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer a-key-of-enough-characters-0123456789"),)
        assert infer(address, request, metadata=metadata).model_name == "scale"  # type: ignore[arg-type]


def test_ids_and_trace_come_back_with_the_answer_and_with_an_error(address: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sent = (("x-request-id", "r-7"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    for request in (a_raw(bytes(8)), a_raw(bytes(7))):
        with grpc.insecure_channel(address) as channel:
            method = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            )
            call = method.future(request, timeout=20, metadata=sent)
            call.exception()
            told = dict(call.trailing_metadata())
        assert told["x-request-id"] == "r-7"
        assert told["traceparent"].split("-")[1] == trace
        assert "b7ad6b7169203331" not in told["traceparent"]
        assert told["podium-revision"].startswith("scale-")
