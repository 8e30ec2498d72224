"""`StreamedAnswer`: what a reader has of a stream: chunks as they come, counted, and closed whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from podium.serving.dispatch.streams import OpenAnswer, Outputs, Streams
from podium.telemetry.counting import StreamCounts


class ChunkedAnswer(Protocol):
    """An answer in chunks, of one model or of a pipeline. Use it in `async with`; one reader."""

    async def read(self) -> list[Outputs]:
        """Every chunk that has come, at least one, in order; an empty list at the end. A chunk is the reader's until
        it reads on or closes. Raises what ended the stream."""

    def close(self) -> None:
        """Ends it wherever it stands. Idempotent."""

    async def __aenter__(self) -> Self:
        """Itself."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""


class Source(Protocol):
    """Where the chunks of one answer come from."""

    async def read(self) -> list[Outputs]:
        """As ChunkedAnswer."""

    def close(self) -> None:
        """As ChunkedAnswer."""


class FromWorkers:
    """Of a worker of this pod."""

    def __init__(self, streams: Streams, answer: OpenAnswer) -> None:
        self._streams = streams
        self._answer = answer

    async def read(self) -> list[Outputs]:
        """As Streams.read."""
        return await self._streams.read(self._answer)

    def close(self) -> None:
        """As Streams.close."""
        self._streams.close(self._answer)


class StreamedAnswer:
    """One answer in chunks. Use it in `async with`; one reader."""

    def __init__(self, source: Source, counts: StreamCounts) -> None:
        self._source = source
        self._counts = counts
        self._clock = asyncio.get_running_loop().time
        self._opened = self._clock()
        self._has_begun = False
        self._has_ended = False
        counts.active += 1

    async def read(self) -> list[Outputs]:
        """Every chunk that has come, at least one, in order; an empty list at the end.

        Calling it again says that the chunks before were delivered. Raises what ended the stream: DeadlineExceeded,
        WorkerDied, PoisonedRequest, ModelError, ContractBreach, InvalidInput, ClientTooSlow, ArenaExhausted,
        GroupStopped; of a model of other pods RemoteUnavailable, RemoteFailed.
        """
        try:
            chunks = await self._source.read()
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._counts.failed += 1
            self._end()
            raise
        if not chunks:
            self._end()
        elif not self._has_begun:
            self._has_begun = True
            self._counts.first_s.add(self._clock() - self._opened)
        self._counts.chunks += len(chunks)
        return chunks

    def close(self) -> None:
        """Ends it wherever it stands. Idempotent."""
        if not self._has_ended:
            self._counts.cancelled += 1
            self._end()

    async def __aiter__(self) -> AsyncIterator[Outputs]:
        """One chunk after the other. Raises as `read`."""
        while chunks := await self.read():
            for chunk in chunks:
                yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._counts.active -= 1
            self._counts.ended += 1
            self._source.close()
