# ruff: noqa: N818 - the names are the conditions, as in kube.errors
"""Why a pod's admin port did not do as asked."""

from podium_operator.errors import OperatorError


class PodError(OperatorError):
    """A call to a pod failed."""


class Unreachable(PodError):
    """No answer: the pod is starting, gone, or a NetworkPolicy is in the way."""


class Refused(PodError):
    """The pod answered and will not: wrong pod, stale generation, wrong token, or an assignment it cannot take."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        """409: another pod's UID or a stale generation; 401: no current token; 422: the assignment itself."""
        self.message = message
