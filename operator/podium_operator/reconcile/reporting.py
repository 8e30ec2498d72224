"""Writes the status where it changed, and an Event for each transition that people care about."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from podium_crds.meta import Condition, ConditionStatus
from podium_crds.reasons import ConditionType, Reason
from podium_crds.status import ServingStatus
from podium_operator.cache import Cache
from podium_operator.events import Events, EventType
from podium_operator.kube.client import KubeClient
from podium_operator.state import Key, Observed
from podium_operator.status.conditions import Judgement
from podium_operator.status.rollup import Subject, rollup

Manifest = dict[str, Any]

_QUIET = (Reason.ROLLOUT_IN_PROGRESS, Reason.ROLLOUT_COMPLETE, Reason.PAUSED, Reason.SCALED_TO_ZERO)
"""Reasons that are no cause for a Warning."""
_TOLD = (ConditionType.PROGRESSING, ConditionType.AVAILABLE, ConditionType.VALIDATED, ConditionType.ROUTED)
"""Conditions whose transitions are Events."""


def read_status(manifest: Manifest) -> ServingStatus:
    """The status of a live object; an empty one where there is none, or none that can be read."""
    try:
        return ServingStatus.model_validate(manifest.get("status") or {})
    except ValueError:
        return ServingStatus()


class Reporter:
    """Keeps nothing: what was said before is read from the resource."""

    def __init__(self, client: KubeClient, cache: Cache, events: Events, wake: Callable[[Key], None]) -> None:
        """`wake`: has a resource looked at soon."""
        self._client = client
        self._cache = cache
        self._events = events
        self._wake = wake

    async def report(self, key: Key, subject: Subject, observed: Observed, judgement: Judgement, now: datetime) -> None:
        """Write the status if it differs from the live one. Raises KubeError."""
        manifest = self._cache.parent(key)
        if manifest is None:
            return  # deleted since the pass began
        live = read_status(manifest)
        status = rollup(subject, observed, judgement, live, now)
        if status == live:
            return
        metadata = manifest["metadata"]
        written = await self._client.apply_status(
            {
                "apiVersion": manifest["apiVersion"],
                "kind": manifest["kind"],
                "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
                "status": status.wire(),
            }
        )
        self._cache.wrote(written)
        self._tell(manifest, live, status)
        if status.current_revision != live.current_revision:
            # The watch takes this for our own write, and wakes nobody: pipelines pin what was promoted.
            for pipeline in self._cache.users(key):
                self._wake(pipeline)

    def _tell(self, manifest: Manifest, before: ServingStatus, after: ServingStatus) -> None:
        for kind in _TOLD:
            old, new = before.condition(kind), after.condition(kind)
            if new is not None and _moved(old, new):
                self._events.record(manifest, _event_type(new), new.reason, f"{kind} {new.status}: {new.message}")


def _moved(old: Condition | None, new: Condition) -> bool:
    if old is None:
        # At first sight only what is wrong is news.
        is_judged = new.type in (ConditionType.VALIDATED, ConditionType.ROUTED)
        return is_judged and new.status is ConditionStatus.FALSE
    return (old.status, old.reason) != (new.status, new.reason)


def _event_type(condition: Condition) -> EventType:
    wrong = condition.status is ConditionStatus.FALSE and condition.reason not in _QUIET
    return EventType.WARNING if wrong else EventType.NORMAL
