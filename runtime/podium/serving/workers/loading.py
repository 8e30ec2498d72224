"""What a load is asked for while it is a candidate's, and how one that failed is told."""

from podium.errors import WorkerLoadError
from podium.ipc.protocol import LoadFailed
from podium_crds.assignment import EngineKind, Member
from podium_crds.reasons import Reason


def as_candidate(member: Member, is_candidate: bool) -> Member:
    """The member with one intra-op thread where its engine can be given more later."""
    if not (is_candidate and member.engine.kind is EngineKind.TORCH):
        return member
    return member.model_copy(update={"engine": member.engine.model_copy(update={"threads": 1})})


def load_reason(failed: LoadFailed) -> Reason:
    """What the report names as the reason of a refused load."""
    return Reason.CONTRACT_MISMATCH if failed.breach else Reason.LOAD_FAILED


def load_error(failure: WorkerLoadError | OSError) -> WorkerLoadError:
    if isinstance(failure, WorkerLoadError):
        return failure
    return WorkerLoadError(Reason.LOAD_FAILED, f"the worker process could not be started: {failure}")
