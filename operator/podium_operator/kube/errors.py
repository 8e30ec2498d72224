# ruff: noqa: N818 - named as Kubernetes names the reasons
"""What the API server answered when it did not do as asked, as one class per case that callers tell apart."""

from collections.abc import Mapping
from typing import Any

from podium_operator.errors import OperatorError


class KubeError(OperatorError):
    """A call to the API server failed. The message is the server's own where it sent one."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", details: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status = status
        """HTTP status; 0 where no answer came."""
        self.reason = reason
        """`Status.reason` of Kubernetes, such as `AlreadyExists`; empty where none was sent."""
        self.details: Mapping[str, Any] = details or {}
        """`Status.details`: the object meant, and for Invalid the causes by field."""


class NotFound(KubeError):
    """No such object, or no such kind."""


class Conflict(KubeError):
    """A precondition (resourceVersion, uid) failed, or the object exists already: observe again, then decide anew."""

    @property
    def already_exists(self) -> bool:
        """True where a create met an object of that name."""
        return self.reason == "AlreadyExists"


class Invalid(KubeError):
    """The object was refused by schema, CEL, admission or quota rules: nothing but another object will do."""


class Forbidden(KubeError):
    """RBAC or a quota refuses it."""

    @property
    def quota_exceeded(self) -> bool:
        """True where a ResourceQuota is what refuses."""
        return "exceeded quota" in str(self)


class Unauthorized(KubeError):
    """The credentials are not accepted."""


class Gone(KubeError):
    """A list's continuation is too old: list again from the start."""


class TooMany(KubeError):
    """The server asks to come back later, and still did after the retries."""


class Unavailable(KubeError):
    """No answer, or a 5xx, after the retries. Whether a write was done is unknown."""


class BadAnswer(KubeError):
    """The answer is no JSON object, or larger than allowed."""


_BY_STATUS: Mapping[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooMany,
}


def from_status(status: int, body: Mapping[str, Any], *, called: str) -> KubeError:
    """The error for an HTTP status and its `Status` body. `called` says what was asked, such as `GET /api/v1/nodes`."""
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else KubeError)
    message = body.get("message")
    details = body.get("details")
    return kind(
        str(message) if message else f"{called} was answered with HTTP {status}",
        status=status,
        reason=str(body.get("reason") or ""),
        details=details if isinstance(details, Mapping) else None,
    )
