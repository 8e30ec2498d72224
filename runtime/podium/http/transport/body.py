"""Reads a request body: bounded in size before a byte is kept, bounded in time, and into given memory where wanted."""

import asyncio
from collections.abc import Sequence
from typing import Self

from podium.errors import InvalidInput
from podium.http.transport.asgi import Fields, Receive
from podium.http.transport.errors import BodyTimeoutError, BodyTooLargeError, ClientGoneError, UnsupportedEncodingError
from podium.http.transport.incoming import Incoming
from podium.http.transport.limits import MIN_BODY_RATE, Limits
from podium.http.transport.receiving import Receiving
from podium.telemetry.counting import BodyCounts

SCRATCH_BYTES = 4 << 10
IDENTITY = (None, b"", b"identity")
USE_BINARY = (
    "send large tensors in binary: POST /v2/models/<name>/infer with Inference-Header-Content-Length "
    "(Open Inference Protocol, binary tensor data extension)"
)


class BodyReader:
    """One request's body, read front to back."""

    def __init__(
        self,
        fields: Fields,
        receive: Receive,
        limits: Limits,
        receiving: Receiving,
        incoming: Incoming | None = None,
    ) -> None:
        """Raises UnsupportedEncodingError, and BodyTooLargeError where Content-Length says so already.
        `incoming`: the same body, where its connection fills given memory itself: for `read_exactly`, `read_into`."""
        if (encoding := fields.get(b"content-encoding")) not in IDENTITY:
            raise UnsupportedEncodingError(f"content-encoding {encoding!r} is not taken; expected identity")
        self._receive = receive
        self._incoming = incoming
        self._limits = limits
        self._receiving = receiving
        self._held = 0
        self.counts = BodyCounts()
        """Of what `read_into` has read."""
        length = fields.get(b"content-length")
        self.length = int(length) if length and length.isdigit() else None
        """Content-Length; None where the body is chunked."""
        self._taken = 0
        self._started = asyncio.get_running_loop().time()
        self._rest = memoryview(b"")
        self._ended = False
        if self.length is not None and self.length > limits.body_bytes:
            raise BodyTooLargeError(f"body of {self.length} bytes; expected at most {limits.body_bytes}")

    async def read_all(self, what: str = "JSON") -> list[bytes]:
        """All of it, in the pieces in which it came, at most the JSON limit. What is more than a piece counts as held
        until `close`. Raises Overloaded where there is no room for it."""
        assert self._incoming is None, "a body that is claimed is read into given memory"
        limit = self._limits.json_bytes
        if self.length is not None and self.length > limit:
            raise BodyTooLargeError(f"{what} body of {self.length} bytes; expected at most {limit}. {USE_BINARY}")
        async with self._time_limit() as timeout:
            pieces = [await self._chunk()]
            while not self._ended:
                if self._taken > limit:
                    break
                self._hold(len(pieces[-1]))
                timeout.extend(self._due())
                pieces.append(await self._chunk())
        if self._taken > limit:
            raise BodyTooLargeError(f"{what} body of more than {limit} bytes. {USE_BINARY}")
        return pieces

    def close(self) -> None:
        """What was held of the body is let go."""
        self._receiving.give(self._held)
        self._held = 0

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes, fewer where the body ends before. Raises BodyTooLargeError at the JSON limit."""
        if size > self._limits.json_bytes:
            raise BodyTooLargeError(f"JSON part of {size} bytes; expected at most {self._limits.json_bytes}")
        buffer = bytearray(size)
        return bytes(buffer[: await self._fill(memoryview(buffer))])

    def expect(self, size: int) -> None:
        """The rest of the body must be that long. Raises InvalidInput where Content-Length says otherwise, and
        BodyTooLargeError."""
        if self.length is not None and self.length - self._consumed != size:
            raise InvalidInput(_mismatch(self.length - self._consumed, size))
        if self._consumed + size > self._limits.body_bytes:
            raise self._too_large()

    async def read_into(self, targets: Sequence[memoryview]) -> None:
        """Fills the targets, one after the other, with all that is left of the body, which was said to be as long as
        they are (`expect`). Raises InvalidInput where it is not."""
        size = sum(target.nbytes for target in targets)
        came = 0
        for target in targets:
            came += await self._fill_counted(target)
        scratch = memoryview(bytearray(SCRATCH_BYTES))
        while more := await self._fill(scratch):
            came += more
            if self._taken > self._limits.body_bytes:
                raise self._too_large()
        if came != size:
            raise InvalidInput(_mismatch(came, size))

    @property
    def limit_bytes(self) -> int:
        """How many bytes may still be read."""
        return self._limits.body_bytes - self._consumed

    async def read_some(self, target: memoryview) -> int:
        """Fills the target; returns how much of it, less only where the body ends before."""
        return await self._fill_counted(target)

    async def _fill_counted(self, target: memoryview) -> int:
        before = self._copied_bytes()
        filled = await self._fill(target)
        copied = self._copied_bytes() - before
        self.counts.in_bytes += filled
        self.counts.in_copied_bytes += copied
        self.counts.in_copies += copied > 0
        return filled

    def _copied_bytes(self) -> int:
        return self._incoming.copied_bytes if self._incoming is not None else self._consumed

    @property
    def _consumed(self) -> int:
        return self._taken - len(self._rest)

    async def _fill(self, target: memoryview) -> int:
        """Fills `target` with what comes next; returns how much of it, less only where the body ends before."""
        async with self._time_limit() as timeout:

            def came(nbytes: int) -> None:
                self._taken += nbytes
                timeout.extend(self._due())

            if self._incoming is not None:
                return await self._incoming.fill(target, came)
            position = 0
            while position < target.nbytes:
                if not self._rest:
                    if self._ended:
                        break
                    timeout.extend(self._due())
                    self._rest = memoryview(await self._chunk())
                    continue
                piece = self._rest[: target.nbytes - position]
                target[position : position + len(piece)] = piece
                self._rest = self._rest[len(piece) :]
                position += len(piece)
            return position

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed the connection while sending")
        body: bytes = message.get("body", b"")
        self._ended = not message.get("more_body", False)
        self._taken += len(body)
        if self._taken > self._limits.body_bytes:
            raise self._too_large()
        return body

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"body of more than {self._limits.body_bytes} bytes")

    def _hold(self, nbytes: int) -> None:
        self._receiving.take(nbytes)
        self._held += nbytes

    def _time_limit(self) -> "_BodyTimeout":
        return _BodyTimeout(self._due())

    def _due(self) -> float:
        """When the next byte must be here: the grace, and what has come at the least rate."""
        return self._started + self._limits.body_grace_s + self._taken / MIN_BODY_RATE


def _mismatch(came: int, expected: int) -> str:
    return f"{came} bytes follow the JSON part; the inputs declare {expected}"


class _BodyTimeout:
    """asyncio.timeout whose expiry is the error of this module."""

    def __init__(self, due: float) -> None:
        self._timeout = asyncio.timeout_at(due)

    def extend(self, due: float) -> None:
        """More has come in."""
        if not self._timeout.expired():  # what comes between the expiry and its error does not count
            self._timeout.reschedule(due)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            await self._timeout.__aexit__(*exception)  # type: ignore[arg-type]
        except TimeoutError as error:
            raise BodyTimeoutError(f"the body came in too slowly; expected {MIN_BODY_RATE} bytes/s at least") from error
