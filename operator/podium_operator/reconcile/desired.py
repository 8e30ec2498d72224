"""A resource and its status → what the planner is asked for. No I/O."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from podium_crds.assignment import ResourceKind, ResourceRef
from podium_crds.parse import Resource
from podium_crds.reasons import ConditionType, Reason
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import ServingStatus
from podium_operator.reconcile.reporting import read_status
from podium_operator.resources.labels import ABORT, PROMOTE, RETRY, ROLLBACK, ROLLBACK_TO
from podium_operator.state import Desired, Hand, Key, KnownRevision, Observed, Owner
from podium_operator.times import parse_time

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subjected:
    """One resource at the start of a pass."""

    key: Key
    manifest: Manifest
    owner: Owner
    status: ServingStatus

    @property
    def generation(self) -> int:
        """metadata.generation."""
        return int(self.manifest["metadata"].get("generation") or 0)

    def annotation(self, name: str) -> str:
        """The annotation's value, or empty."""
        return str((self.manifest["metadata"].get("annotations") or {}).get(name, ""))


def subjected(key: Key, manifest: Manifest) -> Subjected:
    """The resource as it is in `manifest`."""
    resource = ResourceRef(kind=ResourceKind(key.kind), namespace=key.namespace, name=key.name)
    owner = Owner(resource, str(manifest["apiVersion"]), manifest["metadata"]["uid"])
    return Subjected(key, manifest, owner, read_status(manifest))


def desired_of(
    subject: Subjected, resource: Resource, record: RevisionRecord, observed: Observed, transitions: int
) -> Desired:
    """What the spec asks for, and how far status says that it has come. `transitions`: of the Lease."""
    status = subject.status
    is_same_target = status.update_revision == record.name
    chosen = status.strategy if is_same_target else None
    gateway = resource.spec.exposure.gateway
    return Desired(
        owner=subject.owner,
        generation=subject.generation,
        target=KnownRevision(name=record.name, record=record),
        replicas=resource.spec.desired_replicas,
        rollout=resource.spec.rollout,
        retry_token=subject.annotation(RETRY),
        lease_transitions=transitions,
        current=status.current_revision if status.current_revision in observed.revisions else None,
        chosen=None if chosen is None or chosen.resolved is RolloutStrategy.AUTO else chosen,
        announced=status.plan if is_same_target else None,
        canary=status.canary if is_same_target else None,
        hand=Hand(
            promote=subject.annotation(PROMOTE),
            abort=subject.annotation(ABORT),
            rollback=subject.annotation(ROLLBACK),
            rollback_to=subject.annotation(ROLLBACK_TO),
        ),
        weighted=gateway is not None and gateway.weights,
        rolling_since=_rolling_since(status),
    )


def _rolling_since(status: ServingStatus) -> datetime | None:
    progressing = status.condition(ConditionType.PROGRESSING)
    if progressing is None or progressing.reason != Reason.ROLLOUT_IN_PROGRESS:
        return None
    return parse_time(progressing.last_transition_time)
