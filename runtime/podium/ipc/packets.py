"""Messages as packets of a SOCK_SEQPACKET socket: what fits goes in one, a larger message in several.

A packet is a byte, 1 where the message goes on in the next one, else 0, and a piece of the message. A message is its
header with its length in front, then each payload with its length in front. PURE.
"""

from collections.abc import Sequence
from struct import Struct, error

from podium.errors import ProtocolError
from podium.ipc.protocol import MAX_HEADER_BYTES, MAX_INLINE_BYTES

MAX_PACKET_BYTES = 64 << 10
"""Small against the socket's buffer, so that a batch with its largest inline tensors is one packet, and finds room."""
MAX_MESSAGE_BYTES = MAX_HEADER_BYTES + MAX_INLINE_BYTES + (1 << 20)
"""With room for the lengths of its payloads, and some that are above the limit together."""
_LENGTH = Struct("<I")
_FIRST = Struct("<BI")
"""The mark of a whole message, and its header's length."""
_WHOLE, _PART = b"\0", b"\1"

Payloads = Sequence[bytes]


def packets(header: bytes, payloads: Payloads) -> list[bytes]:
    """The packets of one message, in the order in which they must be sent, nothing between them."""
    if not payloads:
        whole = b"".join((_FIRST.pack(0, len(header)), header))
    elif len(payloads) == 1:
        (payload,) = payloads
        whole = b"".join((_FIRST.pack(0, len(header)), header, _LENGTH.pack(len(payload)), payload))
    else:
        parts = [_FIRST.pack(0, len(header)), header]
        for payload in payloads:
            parts += (_LENGTH.pack(len(payload)), payload)
        whole = b"".join(parts)
    return [whole] if len(whole) <= MAX_PACKET_BYTES else _cut(memoryview(whole)[1:])


def _cut(message: memoryview) -> list[bytes]:
    step = MAX_PACKET_BYTES - 1
    last = (message.nbytes - 1) // step * step
    pieces = [b"".join((_PART, message[at : at + step])) for at in range(0, last, step)]
    return [*pieces, b"".join((_WHOLE, message[last:]))]


class Assembly:
    """Puts the packets of one sender together again."""

    __slots__ = ("_nbytes", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._nbytes = 0

    def take(self, packet: bytes) -> tuple[bytes, list[bytes]] | None:
        """Header and payloads of the message that this packet ends; None where it goes on. Raises ProtocolError."""
        if not packet[0] and not self._pieces:
            return _parsed(packet)
        if len(packet) > MAX_PACKET_BYTES:
            raise ProtocolError(f"a packet of more than {MAX_PACKET_BYTES} bytes")
        self._nbytes += len(packet)
        if self._nbytes > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        self._pieces.append(packet[1:])
        if packet[0]:
            return None
        whole = b"".join((_WHOLE, *self._pieces))
        self._pieces, self._nbytes = [], 0
        return _parsed(whole)


def _parsed(message: bytes) -> tuple[bytes, list[bytes]]:
    """Of a whole message behind its mark."""
    total = len(message)
    try:
        at = 5 + _LENGTH.unpack_from(message, 1)[0]
        if at == total:
            return message[5:], []
        header, payloads = message[5:at], []
        while at < total:
            start = at + 4
            at = start + _LENGTH.unpack_from(message, at)[0]
            payloads.append(message[start:at])
    except error as unreadable:
        raise ProtocolError("a message that ends inside a length") from unreadable
    if at != total:
        raise ProtocolError(f"a message of {total} bytes whose parts take {at}")
    return header, payloads
