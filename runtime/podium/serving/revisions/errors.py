"""Why the front end does not take a request or an assignment. Extends the tree of podium.errors."""

from podium.errors import Overloaded, PodiumError, RequestError
from podium_crds.reasons import Reason


class UnknownModelError(RequestError):
    """Nothing of that name (or that version of it) is served here."""


class NotReadyError(Overloaded):
    """The model is known, but no revision of it can answer yet."""


class DrainingError(Overloaded):
    """The pod has ended its drain; ask another one."""


class AssignmentRefusedError(PodiumError):
    """An assignment cannot be taken: a lower generation, another pod's UID, or a schema this pod does not speak."""


class RevisionFailedError(PodiumError):
    """A revision cannot become ready. `reason` and `exit_code` go into its report."""

    def __init__(self, reason: Reason, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code
