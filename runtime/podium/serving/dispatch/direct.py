"""Requests without a task: who asks gives a callback, and gets all answers of a wake-up in one go.

A future and a task for each request cost as much as a small model's whole request. So the outcome is a plain object,
and answers are handed over together, after the next batch has been dispatched.
"""

import asyncio
from collections.abc import Callable, Mapping

from podium.batching.queue import Waiting
from podium.ipc.tensor import Tensor
from podium.telemetry.logging import get_logger

log = get_logger(__name__)

Answered = Callable[[Mapping[str, Tensor] | None, Exception | None], None]
"""Called once: with outputs, borrowed for the call, or with the error. Must not raise."""


class CallCancelled(Exception):  # noqa: N818
    """Nobody waits for the call any more."""


class Deliveries:
    """Hands answers over in the loop's next turn, all that are there. One per loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: list[DirectCall] = []

    def add(self, call: "DirectCall") -> None:
        """The call has its outcome."""
        self._ready.append(call)
        if len(self._ready) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        for call in ready:
            call.deliver()


class DirectCall:
    """The outcome of one request; the dispatcher sees it as a future. `cancel` or the answer ends it, once."""

    __slots__ = ("_answered", "_deliveries", "_done", "_error", "_finish", "_outputs", "waiting")

    def __init__(
        self, answered: Answered, deliveries: Deliveries, finish: Callable[[Waiting, Exception | None], None]
    ) -> None:
        """`finish` gives back what the request held; it is called before `answered`, or by `cancel`."""
        self._answered = answered
        self._deliveries = deliveries
        self._finish = finish
        self._done = False
        self._outputs: Mapping[str, Tensor] | None = None
        self._error: Exception | None = None
        self.waiting: Waiting | None = None

    def done(self) -> bool:
        """Nobody waits for an outcome any more."""
        return self._done

    def set_result(self, outputs: dict[str, Tensor]) -> None:
        """The answer, with leases that end when it has been handed over."""
        self._done = True
        self._outputs = outputs
        self._deliveries.add(self)

    def set_exception(self, error: Exception) -> None:
        """There is no answer."""
        self._done = True
        self._error = error
        self._deliveries.add(self)

    def cancel(self) -> None:
        """Nobody wants the answer: the callback is not called any more. No effect after the answer."""
        if self.waiting is not None:
            self._answered = _nobody
            if not self._done:
                self._done = True
                self._end(CallCancelled())

    def deliver(self) -> None:
        """Hands the outcome over."""
        self._end(self._error)
        try:
            self._answered(self._outputs, self._error)
        except Exception as error:  # noqa: BLE001 - the other answers of this turn must go out
            log.error("answer_broke", error=error)
        finally:
            for tensor in (self._outputs or {}).values():
                tensor.release()

    def _end(self, error: Exception | None) -> None:
        waiting, self.waiting = self.waiting, None
        assert waiting is not None, "a call ends once"
        self._finish(waiting, error)


def _nobody(_outputs: Mapping[str, Tensor] | None, _error: Exception | None) -> None:
    """In place of a callback that nobody listens to."""
