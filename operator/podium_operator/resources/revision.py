"""ControllerRevisions: what rollback goes back to. Their data is immutable; what is learnt later is annotated."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from podium_crds.base import canonical_json
from podium_crds.errors import RecordError
from podium_crds.keys import LABEL_REVISION
from podium_crds.reasons import Reason
from podium_crds.revision import RevisionRecord
from podium_operator.resources.labels import DIGESTS, QUARANTINE, SERVED_AT, child_labels, metadata
from podium_operator.state import KnownRevision, Owner, Problem
from podium_operator.times import parse_time, rfc3339


def controller_revision(owner: Owner, record: RevisionRecord, ordinal: int) -> dict[str, Any]:
    """The ControllerRevision that keeps a record."""
    labels = {**child_labels(owner.resource, "revision"), LABEL_REVISION: record.name}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(owner, record.name, labels),
        "revision": ordinal,
        "data": record.to_data(),
    }


def digests_annotation(known: KnownRevision, resolved: Mapping[str, str]) -> dict[str, str]:
    """Pins digests beside those pinned already."""
    return {DIGESTS: canonical_json({**resolved, **known.record.digests})}


def quarantine_annotation(problem: Problem, retry_token: str, judged_under: str) -> dict[str, str | None]:
    """Keeps why the revision failed, and under which rollout.strategy. It is nothing to go back to any more."""
    kept = {
        "reason": str(problem.reason),
        "message": problem.message,
        "time": rfc3339(problem.time) if problem.time else None,
        "exitCode": problem.exit_code,
        "retry": retry_token,
        "strategy": judged_under,
    }
    return {QUARANTINE: canonical_json(kept), SERVED_AT: None}


def served_annotation(at: datetime) -> dict[str, str]:
    """Keeps that the revision has served as its resource's only one."""
    return {SERVED_AT: rfc3339(at)}


def read_revision(manifest: Mapping[str, Any]) -> KnownRevision | None:
    """The revision that a live ControllerRevision keeps; None where this release cannot read it."""
    found = manifest["metadata"]
    annotations = found.get("annotations") or {}
    try:
        record = RevisionRecord.from_data(manifest.get("data") or {})
    except RecordError:
        return None
    quarantine, retry_token, judged_under = _read_quarantine(annotations.get(QUARANTINE))
    return KnownRevision(
        name=record.name,
        record=record.with_digests(_read_digests(annotations.get(DIGESTS))),
        ordinal=int(manifest.get("revision") or 0),
        uid=found["uid"],
        resource_version=found["resourceVersion"],
        quarantine=quarantine,
        retry_token=retry_token,
        judged_under=judged_under,
        served_at=parse_time(annotations.get(SERVED_AT)),
        started=parse_time(found.get("creationTimestamp")),
    )


def _read_digests(text: str | None) -> dict[str, str]:
    found = _read_json(text)
    return {str(name): str(digest) for name, digest in found.items()}


def _read_quarantine(text: str | None) -> tuple[Problem | None, str, str]:
    found = _read_json(text)
    if not found:
        return None, "", ""
    try:
        reason = Reason(found.get("reason", ""))
    except ValueError:
        reason = Reason.LOAD_FAILED
    code = found.get("exitCode")
    problem = Problem(
        reason, str(found.get("message", "")), parse_time(found.get("time")), code if isinstance(code, int) else None
    )
    return problem, str(found.get("retry", "")), str(found.get("strategy", ""))


def _read_json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
