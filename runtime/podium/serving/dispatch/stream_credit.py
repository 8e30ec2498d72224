"""`CreditDesk`: tells workers what was read and what is to be closed, one message per worker and turn of the loop.

Nothing is lost when a worker's pipe is full: what could not be said is kept, one number a stream, and said later.
"""

import asyncio
from dataclasses import dataclass, field

from podium.ipc.channel import NoCredit, PeerGone
from podium.ipc.protocol import CloseStream, Credit, StreamCredit
from podium.serving.workers.supervisor import Supervisor

RETRY_S = 0.05
"""After a full pipe. It empties as soon as the worker ends its step."""


@dataclass(slots=True)
class _Unsaid:
    epoch: int
    credit: dict[int, int] = field(default_factory=dict)
    """stream → bytes read."""
    closed: set[int] = field(default_factory=set)


class CreditDesk:
    """What the workers of a group have still to be told. Used from one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unsaid: dict[Supervisor, _Unsaid] = {}
        self._flush: asyncio.Handle | None = None

    def give(self, instance: Supervisor, stream: int, nbytes: int) -> None:
        """So much more of that stream was read."""
        credit = self._of(instance).credit
        credit[stream] = credit.get(stream, 0) + nbytes

    def close(self, instance: Supervisor, stream: int) -> None:
        """Nobody reads that stream any more."""
        unsaid = self._of(instance)
        unsaid.credit.pop(stream, None)
        unsaid.closed.add(stream)

    def forget(self, instance: Supervisor) -> None:
        """That worker is gone."""
        self._unsaid.pop(instance, None)

    def _of(self, instance: Supervisor) -> _Unsaid:
        if self._flush is None:
            self._flush = self._loop.call_soon(self._say)
        unsaid = self._unsaid.get(instance)
        if unsaid is None or unsaid.epoch != instance.epoch:
            unsaid = self._unsaid[instance] = _Unsaid(instance.epoch)
        return unsaid

    def _say(self) -> None:
        self._flush = None
        for instance, unsaid in list(self._unsaid.items()):
            try:
                self._tell(instance, unsaid)
            except PeerGone:
                del self._unsaid[instance]
            except NoCredit:
                self._flush = self._flush or self._loop.call_later(RETRY_S, self._say)
            else:
                del self._unsaid[instance]

    def _tell(self, instance: Supervisor, unsaid: _Unsaid) -> None:
        if unsaid.credit:
            credits_ = tuple(Credit(stream, nbytes) for stream, nbytes in unsaid.credit.items())
            instance.send(StreamCredit(unsaid.epoch, credits_))
            unsaid.credit.clear()
        while unsaid.closed:
            stream = min(unsaid.closed)
            instance.send(CloseStream(unsaid.epoch, stream))
            unsaid.closed.discard(stream)
