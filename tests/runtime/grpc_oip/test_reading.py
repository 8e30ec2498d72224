"""What is counted for a message that is awaited, however the wait ends. The client here never sends it."""

import asyncio
from typing import Any

import pytest
from tests.support.waiting import eventually

from podium.grpc_oip.reading import Messages
from podium.http.transport.errors import BodyTimeoutError
from podium.http.transport.limits import Limits
from podium.http.transport.receiving import Receiving

LONGEST_BYTES = 1000


class Arena:
    """As much of one as is looked at here."""

    size_bytes = 1 << 20


class Silent:
    """A call over a connection that the kernel does not know: while it is awaited it counts as the longest."""

    def peer(self) -> str:
        return "ipv4:192.0.2.1:1"

    async def read(self) -> Any:
        await asyncio.Event().wait()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def asked(messages: Messages) -> None:
    async with messages.held(Silent()):
        raise AssertionError("no message came")


async def counted(receiving: Receiving, clock: Clock, asking: "asyncio.Task[None]") -> None:
    clock.now += 1
    await eventually(lambda: asking.done() or receiving.held_bytes == LONGEST_BYTES)
    assert not asking.done()


@pytest.fixture
def receiving() -> Receiving:
    arena: Any = Arena()
    return Receiving(arena)


async def test_nothing_stays_counted_for_a_call_that_its_client_has_cancelled(receiving: Receiving) -> None:
    clock = Clock()
    asking = asyncio.create_task(asked(Messages(receiving, Limits(), LONGEST_BYTES, clock)))
    await asyncio.sleep(0)
    await counted(receiving, clock, asking)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert receiving.held_bytes == 0


async def test_nothing_stays_counted_for_a_message_that_comes_too_slowly(receiving: Receiving) -> None:
    clock, limits = Clock(), Limits()
    asking = asyncio.create_task(asked(Messages(receiving, limits, LONGEST_BYTES, clock)))
    await asyncio.sleep(0)
    await counted(receiving, clock, asking)
    clock.now += limits.body_grace_s + 1
    with pytest.raises(BodyTimeoutError):
        await asking
    assert receiving.held_bytes == 0
