"""Builds the report of a pod from what its parts say now."""

from podium.serving.revisions.assignments import AssignmentDesk
from podium.serving.revisions.lifecycle import HostedRevision
from podium.serving.revisions.resident import Resident
from podium.serving.revisions.residents import Residents
from podium.telemetry.cgroup import MemoryState, memory_state
from podium_crds.assignment import Counts, MemberReport, Progress, Report, RevisionReport
from podium_crds.shadow import ShadowReport


def build_report(residents: Residents, desk: AssignmentDesk, pod_uid: str, runtime_version: str) -> Report:
    """What the admin port answers. Reads a few small files of the kernel."""
    resident = next(iter(residents), None)
    memory = memory_state()
    return Report(
        runtime_version=runtime_version,
        pod_uid=pod_uid,
        resource=resident.resource if resident else None,
        applied=desk.applied.generation if desk.applied else None,
        mounted=desk.mounted.generation if desk.mounted else None,
        ready=residents.is_ready(),
        draining=residents.drain.has_begun,
        assigned=tuple(revision.name for revision in desk.applied.revisions) if desk.applied else (),
        promoted=desk.applied.promoted if desk.applied else None,
        revisions=tuple(_revision(resident, hosted) for hosted in resident.hosted) if resident else (),
        memory_limit_bytes=memory.limit_bytes,
        headroom_bytes=_headroom(memory, residents),
        last_failure=desk.last_failure,
    )


def _headroom(memory: MemoryState, residents: Residents) -> int | None:
    """What a new revision may take: mapped weights are in use, though the kernel could drop their pages."""
    headroom = memory.headroom_bytes
    return None if headroom is None else max(0, headroom - residents.groups.mapped_bytes)


def _revision(resident: Resident, hosted: HostedRevision) -> RevisionReport:
    live = hosted.live
    return RevisionReport(
        name=hosted.name,
        state=hosted.state,
        since=hosted.since,
        weight=resident.weight(hosted),
        progress=_progress(hosted),
        in_flight=live.in_flight if live else 0,
        counts=live.counts.report() if live else Counts(),
        shared_counts=live.counts.compared() if live else Counts(),
        shadow=live.shadow.report(resident.shadow(hosted)) if live else ShadowReport(),
        members=tuple(_member(hosted, name) for name in hosted.held),
        last_failure=hosted.failure,
    )


def _progress(hosted: HostedRevision) -> Progress:
    parts = [shared.progress for shared in hosted.held.values()]
    totals = [part.bytes_total for part in parts]
    known = [total for total in totals if total is not None]
    return Progress(
        bytes_done=sum(part.bytes_done for part in parts),
        bytes_total=sum(known) if parts and len(known) == len(parts) else None,
    )


def _member(hosted: HostedRevision, name: str) -> MemberReport:
    shared = hosted.held[name]
    stats = shared.group.stats() if shared.group else None
    return MemberReport(
        name=name,
        load_hash=shared.member.load_hash,
        digest=shared.digest,
        pids=stats.pids if stats else (),
        restarts=stats.restarts if stats else 0,
        private_bytes=stats.private_bytes if stats else 0,
        shared_bytes=stats.shared_bytes if stats else 0,
    )
