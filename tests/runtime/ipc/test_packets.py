"""Messages are cut into packets and put together again; what a hostile peer makes of that is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.errors import ProtocolError
from podium.ipc.packets import MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, Assembly, packets

sizes = st.one_of(st.integers(0, 40), st.integers(MAX_PACKET_BYTES - 40, MAX_PACKET_BYTES + 40), st.just(200_000))


def joined(cut: list[bytes], assembly: Assembly | None = None) -> tuple[bytes, list[bytes]] | None:
    assembly = assembly or Assembly()
    results = [assembly.take(packet) for packet in cut]
    assert results[:-1] == [None] * (len(cut) - 1), "a message ended before its last packet"
    return results[-1]


@given(sizes, st.lists(sizes, max_size=4))
def test_a_message_of_any_size_comes_out_as_it_went_in(header: int, payloads: list[int]) -> None:
    sent = bytes([1]) * header, [bytes([index + 2]) * size for index, size in enumerate(payloads)]
    cut = packets(*sent)
    assert all(len(packet) <= MAX_PACKET_BYTES for packet in cut)
    assert joined(cut) == sent


def test_messages_that_follow_each_other_do_not_mix() -> None:
    assembly = Assembly()
    for number in range(3):
        large, small = (b"l%d" % number, [bytes(200_000)]), (b"s%d" % number, [b"x", b""])
        assert joined(packets(*large), assembly) == large
        assert joined(packets(*small), assembly) == small


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        b"\0\1\0\0",
        b"\0\5\0\0\0abc",
        b"\0\1\0\0\0a\1\0",
        b"\0\1\0\0\0a\5\0\0\0b",
        b"\0\xff\xff\xff\xffa",
    ],
)
def test_lengths_that_do_not_fit_their_message_are_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        Assembly().take(packet)


def test_a_message_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    assembly = Assembly()
    packet = b"\1" + bytes(MAX_PACKET_BYTES - 1)
    most = MAX_MESSAGE_BYTES // MAX_PACKET_BYTES
    assert [assembly.take(packet) for _ in range(most)] == [None] * most
    with pytest.raises(ProtocolError, match="more than"):
        assembly.take(packet)
