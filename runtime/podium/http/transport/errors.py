"""Errors → answers: one body, and a status that means it. Nothing outside this module chooses a status."""

from dataclasses import dataclass

from podium.errors import (
    ArenaExhausted,
    ClientTooSlow,
    DeadlineExceeded,
    GroupStopped,
    InvalidInput,
    ModelError,
    Overloaded,
    PodiumError,
    PredictedLate,
    QueueFull,
    RemoteFailed,
    RemoteUnavailable,
    RequestError,
    StreamingMismatch,
    StreamsFull,
    WorkerDied,
)
from podium.graph.errors import BranchConditionError, MissingOutputError, StepError
from podium.http.transport.receiving import BodiesFullError
from podium.serving.dispatch.codec_group import DecodedTooLargeError, UnreadableBodyError
from podium.serving.revisions.errors import DrainingError, NotReadyError, UnknownModelError
from podium.telemetry.logging import get_logger
from podium_crds.assignment import ResourceKind

log = get_logger(__name__)


class BodyTooLargeError(RequestError):
    """The body, or its JSON part, is above its limit."""


class BodyTimeoutError(RequestError):
    """The body did not come in time."""


class UnsupportedEncodingError(RequestError):
    """The body is compressed."""


class UnsupportedMediaTypeError(RequestError):
    """No codec reads a body of that type, or writes an answer of the type asked for."""


class NotAcceptableError(RequestError):
    """The answer cannot be written in any form that the client accepts."""


class CodecFailedError(PodiumError):
    """The codec process ended, or took too long, over a body. Nobody but time can help, or a smaller body."""


class UnauthorizedError(RequestError):
    """The request carries none of the API keys."""


class MethodNotAllowedError(RequestError):
    """The route takes other methods."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method[:20]} is not taken here; expected {allowed}")
        self.allowed = allowed


class UnknownRouteError(RequestError):
    """No route has that path."""


class WrongKindError(RequestError):
    """What is asked is served, by another route."""

    def __init__(self, name: str, kind: ResourceKind, path: str) -> None:
        noun = "model" if kind is ResourceKind.MODEL else "pipeline"
        super().__init__(f"{name[:80]!r} is a {noun}: ask POST {path}")


class DeclaredElsewhereError(RequestError):
    """What is loaded follows the resource; no request changes it."""


class ClientGoneError(RequestError):
    """The client closed the connection; nobody reads the answer."""


class CancelledByClientError(RequestError):
    """Another request of the client cancelled this one."""


class UnknownCallError(RequestError):
    """No call of that request id is under way."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Status, a code for programs, and a message for people."""

    status: int
    code: str
    message: str
    retry_after_s: float | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == 503


_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (UnauthorizedError, 401, "unauthorized"),
    (UnknownModelError, 404, "not_found"),
    (UnknownRouteError, 404, "unknown_route"),
    (WrongKindError, 404, "wrong_kind"),
    (UnknownCallError, 404, "not_found"),
    (CancelledByClientError, 499, "cancelled"),
    (MethodNotAllowedError, 405, "method_not_allowed"),
    (NotAcceptableError, 406, "not_acceptable"),
    (StreamingMismatch, 406, "not_acceptable"),
    (BodyTimeoutError, 408, "body_timeout"),
    (DeclaredElsewhereError, 409, "declared_elsewhere"),
    (BodyTooLargeError, 413, "too_large"),
    (DecodedTooLargeError, 413, "too_large"),
    (UnsupportedMediaTypeError, 415, "unsupported_media_type"),
    (UnsupportedEncodingError, 415, "unsupported_encoding"),
    (InvalidInput, 422, "invalid_input"),
    (BranchConditionError, 422, "invalid_input"),
    (UnreadableBodyError, 400, "unreadable_body"),
    (RequestError, 400, "bad_request"),
    (DrainingError, 503, "draining"),
    (NotReadyError, 503, "not_ready"),
    (QueueFull, 503, "queue_full"),
    (PredictedLate, 503, "predicted_late"),
    (CodecFailedError, 503, "codec_failed"),
    (StreamsFull, 503, "streams_full"),
    (ArenaExhausted, 503, "memory_full"),
    (BodiesFullError, 503, "memory_full"),
    (RemoteUnavailable, 503, "remote_unavailable"),
    (Overloaded, 503, "overloaded"),
    (WorkerDied, 503, "worker_died"),
    (GroupStopped, 503, "not_ready"),
    (ClientTooSlow, 503, "client_too_slow"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (RemoteFailed, 502, "remote_failed"),
    (ModelError, 500, "model_error"),
    (MissingOutputError, 500, "model_error"),
)
"""First match wins: subclasses stand before their bases."""

DEFAULT_RETRY_AFTER_S = 1.0


def answer_for(error: Exception) -> ErrorAnswer:
    """The answer that an error means. An error that nobody foresaw is logged and says nothing of its inside."""
    prefix = ""
    cause: Exception = error
    while isinstance(cause, StepError):
        prefix += f"step {cause.step}: "
        cause = cause.cause
    for kind, status, code in _STATUSES:
        if isinstance(cause, kind):
            message = prefix + (str(cause) or code)
            return ErrorAnswer(status, code, message, _retry_after(cause, status), _headers(cause))
    log.error("request_broke", error=cause)
    return ErrorAnswer(500, "internal", f"{prefix}internal error ({type(cause).__name__})")


def _retry_after(error: Exception, status: int) -> float | None:
    if isinstance(error, Overloaded | WorkerDied):
        return error.retry_after_s
    return DEFAULT_RETRY_AFTER_S if status == 503 else None


def _headers(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, MethodNotAllowedError):
        return ((b"allow", error.allowed.encode()),)
    if isinstance(error, UnauthorizedError):
        return ((b"www-authenticate", b'Bearer realm="podium"'),)
    return ()
