"""When a forward counts as hung, so that its worker is killed. Pure."""

from podium_crds.assignment import Member

HANG_GRACE_S = 5.0
"""How far beyond the last deadline in it a batch may run before its worker is killed."""


def hung_at(member: Member, began: float, latest: float) -> float:
    """When a forward that began then has made no progress for too long. `latest`: the last deadline in its batch."""
    # A client's short deadline must not get the worker killed: the model's own timeout is the least it may take.
    by_requests = began + member.timeout_seconds
    # Only warm-up has deadlines beyond that: it compiles, and is given what it was promised.
    if member.hang_timeout_seconds is not None and latest <= by_requests:
        return began + member.hang_timeout_seconds
    return max(latest, by_requests) + HANG_GRACE_S
