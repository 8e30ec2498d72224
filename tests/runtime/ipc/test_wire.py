"""Messages and references: small, strict, and checked by who receives them."""

import msgspec
import pytest

from podium.errors import DescriptorError, ProtocolError
from podium.ipc.bootstrap import Bootstrap, read_bootstrap, write_bootstrap
from podium.ipc.descriptor import Descriptor, Inline, SlotRange, check_granted
from podium.ipc.journal import Journal, create_journal
from podium.ipc.protocol import Dispatch, Hello, Reply, Stop, decode_from_worker, decode_to_worker, encode
from podium_crds.tensors import DType

GRANT = SlotRange(start=4096, generation=7, nbytes=128)


def output(**changes: object) -> Descriptor:
    fields: dict[str, object] = {
        "start": 4096,
        "generation": 7,
        "offset": 64,
        "nbytes": 64,
        "dtype": DType.FP32,
        "shape": (4, 4),
    }
    return Descriptor(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_descriptor_takes_at_most_64_bytes() -> None:
    largest = Descriptor(2**40, 2**50, 2**31, 2**31, DType.UINT64, (4096, 512, 1024, 1024))
    assert len(msgspec.msgpack.encode(largest)) <= 64


def test_messages_come_back_as_they_were_sent() -> None:
    dispatch = Dispatch(3, 9, (1, 2), {"x": output(), "y": Inline(0, DType.BYTES, (3,))}, GRANT)
    assert decode_to_worker(encode(dispatch)) == dispatch
    reply = Reply(3, 9, {"z": output()}, 0.5)
    assert decode_from_worker(encode(reply)) == reply


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        encode(Stop(1)),
        msgspec.msgpack.encode({"type": "ready", "epoch": -1, "load_s": 1.0}),
        msgspec.msgpack.encode({"type": "ready", "epoch": 1, "load_s": 1.0, "extra": 1}),
        msgspec.msgpack.encode(
            {"type": "reply", "epoch": 1, "batch": 1, "run_s": 0.1, "outputs": {"x" * 64: [1, 0, "FP32", [1]]}}
        ),
        msgspec.msgpack.encode(
            {"type": "reply", "epoch": 1, "batch": 1, "run_s": 0.1, "outputs": {"x": [1, 0, "FP32", [-1]]}}
        ),
        msgspec.msgpack.encode(
            {"type": "reply", "epoch": 1, "batch": 1, "run_s": 0.1, "outputs": {"x": [1, 0, "FP31", [1]]}}
        ),
        b"x" * (1 << 20 | 1),
    ],
    ids=range(10),
)
def test_what_a_worker_may_not_say_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_worker(header)


def test_a_worker_is_not_heard_as_a_front_end() -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(encode(Hello(1, b"token", 1)))


def test_an_output_in_its_grant_is_believed() -> None:
    check_granted(output(), GRANT)


@pytest.mark.parametrize(
    "changes",
    [{"start": 0}, {"generation": 6}, {"offset": 65}, {"shape": (4, 5)}, {"dtype": DType.FP64}, {"nbytes": 60}],
    ids=str,
)
def test_an_output_outside_its_grant_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DescriptorError):
        check_granted(output(**changes), GRANT)


def test_an_output_in_a_slot_without_a_grant_is_refused() -> None:
    with pytest.raises(DescriptorError):
        check_granted(output(), None)


def test_start_parameters_are_read_once_from_memory() -> None:
    sent = Bootstrap("ipc:///x", b"p:1", 1, b"t", 1, 4096, 8192, "/a", "cpu", "{}")
    fd = write_bootstrap(sent)
    assert read_bootstrap(fd) == sent


def test_the_journal_tells_the_batch_begun_last() -> None:
    journal = Journal(create_journal())
    assert journal.last() is None
    journal.begin(3)
    journal.begin(4)
    assert journal.last() == 4
