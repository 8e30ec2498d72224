"""The error tree of the runtime. A leaf: imports only the contracts.

Each class says who acts: the client (`RequestError`), the model's author (`ModelError`, `WorkerLoadError`), nobody but
time (`Overloaded`, `WorkerDied`). The HTTP layer maps a class to a status once.
"""

from podium_crds.reasons import Reason

MAX_MESSAGE_CHARS = 1024


class PodiumError(Exception):
    """Root of the tree."""


class RequestError(PodiumError):
    """The request is wrong; the client must change it before it asks again."""


class InvalidInput(RequestError):  # noqa: N818
    """Tensors that the model cannot take: names, dtypes, shapes, or sizes."""


class StreamingMismatch(RequestError):  # noqa: N818
    """A stream was asked of what answers at once, or the other way round."""


class BatchTooLarge(InvalidInput):
    """A request has more rows than `batching.maxBatchSize`."""

    def __init__(self, rows: int, max_rows: int) -> None:
        super().__init__(
            f"the request has {rows} rows in its first dimension, the model takes at most {max_rows}; "
            "send fewer rows, or raise batching.maxBatchSize"
        )
        self.rows = rows
        self.max_rows = max_rows


class DeadlineExceeded(PodiumError):  # noqa: N818
    """The request's time ran out, in the queue or in the model."""


class Overloaded(PodiumError):  # noqa: N818
    """There is no room now; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """`batching.maxQueueSize` requests are waiting already."""


class PredictedLate(Overloaded):
    """So much waits already that the answer would come after the deadline: refused before it costs anything."""


class StreamsFull(Overloaded):
    """`batching.maxConcurrentStreams` streams are open on every instance."""


class ClientTooSlow(PodiumError):  # noqa: N818
    """The reader of a stream left so much unread for so long that an engine which cannot pause gave it up."""


class ArenaExhausted(Overloaded):
    """The arena has no free range of the wanted size."""


class WorkerDied(PodiumError):  # noqa: N818
    """The worker process ended with this request on it. 503 with Retry-After.

    `started` is True where the model may have begun to work on the request, so that asking again may do it twice.
    """

    def __init__(self, message: str, *, started: bool, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.started = started
        self.retry_after_s = retry_after_s


class GroupStopped(PodiumError):  # noqa: N818
    """The worker group is stopped or stopping; the route should not have led here."""


class ModelError(PodiumError):
    """The model's own code raised, or returned what it did not declare. The message ends with its last lines."""

    def __init__(self, message: str) -> None:
        super().__init__(clipped(message))


class ModelOutOfMemory(ModelError):  # noqa: N818
    """The batch did not fit into the memory of the device or the process; a smaller one may."""


class ContractBreach(ModelError):  # noqa: N818
    """The model answered, but not with the outputs that the resource declares."""


class PoisonedRequest(ModelError):  # noqa: N818
    """Two workers died with this request on them; it is not tried again."""


class WorkerLoadError(PodiumError):
    """A worker did not come up. `reason` goes into the report, `exit_code` is negative for a signal."""

    def __init__(self, reason: Reason, message: str, exit_code: int | None = None) -> None:
        super().__init__(clipped(message))
        self.reason = reason
        self.exit_code = exit_code


class ProtocolError(PodiumError):
    """A worker or the front end sent what the protocol does not allow: a bug, or a hostile model."""


class DescriptorError(ProtocolError):
    """A tensor reference points outside what its sender was given, or contradicts itself."""


class LeaseError(PodiumError):
    """A lease was used after its release, or by one who does not hold it: our own bug."""


def clipped(message: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    """At most `limit` characters: the beginning is dropped, since the last lines of a traceback say what happened."""
    return message if len(message) <= limit else "…" + message[-(limit - 1) :]


class RemoteUnavailable(Overloaded):
    """A model of other pods cannot be reached, or has no room now.

    `sent` is False where nothing had reached it, so that asking again does nothing twice.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0, *, sent: bool) -> None:
        super().__init__(message, retry_after_s)
        self.sent = sent


class RemoteFailed(PodiumError):  # noqa: N818
    """A model of other pods answered with an error of its own, or with what is no answer."""
