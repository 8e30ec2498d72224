"""What messages of gRPC may take of the front end's memory while they come in, sent by real clients over connections
that keep a part of them back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.grpc_oip.test_grpc import an_input
from tests.runtime.grpc_oip.test_grpc_copies import YAML, random_bytes
from tests.runtime.serving.processes import Server, served, until
from tests.support.cluster_ip import cluster_ip
from tritonclient.grpc import InferenceServerClient, service_pb2

MIB = 1 << 20
KEY = "a-key-of-enough-characters-0123456789"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
ARENA_MIB = 64
HALF = ARENA_MIB // 2 * MIB
MESSAGE = 8 * MIB
SENDERS = 48
CUT = 6 * MIB
"""Of each message that reaches the server before the rest is let through."""
KEYED = (("x-api-key", KEY),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "keys").write_text(f"alice: {KEY}\n")
    options = ("--grpc-port", "0", "--api-key-file", str(folder / "keys"))
    with served(folder, YAML, *options, arena_mib=ARENA_MIB, PODIUM_MAX_BODY_BYTES=str(48 * MIB)) as made:
        yield made


def a_message(nbytes: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="flip", raw_input_contents=[bytes(nbytes)])
    request.inputs.add(name="x", datatype="UINT8", shape=[1, nbytes])
    return request.SerializeToString()


@contextlib.contextmanager
def calls(
    port: int, count: int, message: bytes, metadata: tuple[tuple[str, str], ...] = KEYED
) -> Iterator[list[grpc.Future]]:
    """As many calls under way, each over a connection of its own."""
    with contextlib.ExitStack() as channels:
        found = []
        for _ in range(count):
            own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
            channel = channels.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=own))
            found.append(channel.unary_unary(METHOD).future(message, timeout=120, metadata=metadata))
        yield found


def own_bytes(server: Server) -> int:
    """What the front end has for itself: all but shared memory and files."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def refused(under_way: list[grpc.Future]) -> list[grpc.Future]:
    return [call for call in under_way if call.done()]


def test_large_messages_together_take_what_bodies_may_and_small_ones_are_answered_beside_them(server: Server) -> None:
    before = own_bytes(server)
    with (
        cluster_ip(server.grpc_port, CUT) as slow,
        calls(slow.port, SENDERS, a_message(MESSAGE)) as under_way,
        InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as beside,
    ):
        kept = HALF // CUT
        until(lambda: len(refused(under_way)) >= SENDERS - kept, lambda: f"refused: {len(refused(under_way))}")
        for nbytes in (1, 1000, 16 << 10):
            x = random_bytes(1, nbytes)
            answer = beside.infer("flip", [an_input("x", x, "UINT8")], headers=dict(KEYED))
            np.testing.assert_array_equal(answer.as_numpy("y"), x[:, ::-1])
        assert own_bytes(server) - before < SENDERS * CUT / 2
        for call in refused(under_way):
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, call.details()
            assert "send again later" in call.details()
            assert ("podium-code", "memory_full") in tuple(call.trailing_metadata())
        left = [call for call in under_way if not call.done()]
        assert left, "somebody had the room"
        slow.let_all_through()
        answers = [call for call in left if call.exception(60) is None]
        assert answers, [call.details() for call in left]
        for call in answers:
            assert len(call.result()) > MESSAGE
    until(lambda: used_bytes(server) == 0, "nothing is held")
    with calls(server.grpc_port, 1, a_message(24 * MIB)) as again:
        assert len(again[0].result(60)) > 24 * MIB, "all of the room is there again"


def used_bytes(server: Server) -> float:
    families = text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "podium_arena_bytes"]
    return sum(sample.value for sample in samples if sample.labels["state"] == "used")


def test_a_message_that_can_never_be_taken_is_refused_when_its_length_is_known(server: Server) -> None:
    with cluster_ip(server.grpc_port, 1 * MIB) as slow, calls(slow.port, 1, a_message(40 * MIB)) as (call,):
        until(call.done, "refused with a fortieth of it")
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in call.details()


def test_a_call_without_a_key_is_refused_before_its_message(server: Server) -> None:
    with cluster_ip(server.grpc_port, 32 << 10) as slow, calls(slow.port, 1, a_message(MESSAGE), ()) as (call,):
        until(call.done, "refused with the head of it")
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_that_does_not_go_on_is_given_up(server: Server) -> None:
    with cluster_ip(server.grpc_port, 128 << 10) as slow, calls(slow.port, 1, a_message(MESSAGE)) as (call,):
        assert call.exception(60) is not None
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert ("podium-code", "body_timeout") in tuple(call.trailing_metadata())


def test_a_compressed_message_is_refused_whatever_it_would_become(server: Server) -> None:
    address = f"127.0.0.1:{server.grpc_port}"
    with (
        grpc.insecure_channel(address, compression=grpc.Compression.Gzip) as channel,
        pytest.raises(grpc.RpcError) as answer,
    ):
        channel.unary_unary(METHOD)(a_message(MESSAGE), timeout=60, metadata=KEYED)
    assert answer.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not [line for line in server.lines if "disabled" in line], "a client does not fill the log"


def test_a_large_message_for_a_method_that_takes_none_is_refused(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as answer:
        channel.unary_unary(METHOD.replace("ModelInfer", "ServerLive"))(a_message(2 * MIB), timeout=60)
    assert answer.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_call_that_ends_without_a_message_is_told_so(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as answer:
        channel.stream_unary(METHOD)(iter(()), timeout=60, metadata=KEYED)
    assert answer.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "before its message" in answer.value.details()
