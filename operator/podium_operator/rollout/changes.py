"""What a rollout will do, in words and numbers, before it does anything."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podium_crds.base import canonical_json
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutStrategy
from podium_crds.status import ResolvedStrategy, RolloutPlan
from podium_operator.rollout.canary import pods_at
from podium_operator.rollout.capacity import gpus_per_pod
from podium_operator.rollout.weights import LEAST_PODS
from podium_operator.state import Desired

MAX_LINES = 32
VALUE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Cost:
    """What the rollout takes beyond what is in use."""

    memory_bytes: int
    start_seconds: int
    """How long a pod takes from its creation to being ready."""


def announced(desired: Desired, serving: RevisionRecord, strategy: ResolvedStrategy, cost: Cost) -> RolloutPlan:
    """The plan of replacing `serving` by the target in this way."""
    surge = strategy.resolved is RolloutStrategy.SURGE
    pods = min(desired.rollout.max_surge, max(1, desired.replicas)) if surge else 0
    return RolloutPlan(
        strategy=strategy.resolved,
        reason=strategy.reason,
        changes=changes(serving, desired.target.record),
        traffic_percents=_percents(desired, serving, strategy.resolved),
        gpus_needed=pods * gpus_per_pod(desired.target.record),
        memory_bytes_needed=cost.memory_bytes,
        expected_gap_seconds=cost.start_seconds if strategy.resolved is RolloutStrategy.RECREATE else 0,
    )


def _percents(desired: Desired, serving: RevisionRecord, strategy: RolloutStrategy) -> tuple[int, ...]:
    """Shares of the new revision, in turn: the weights of the steps in place, what pods and Gateways make of them in a
    surge, pod by pod in one without steps."""
    if strategy is RolloutStrategy.SURGE and desired.rollout.steps:
        return _surged(desired)
    if strategy is RolloutStrategy.SURGE:
        pods = max(1, min(desired.replicas, MAX_LINES))
        return tuple(100 * (pod + 1) // pods for pod in range(pods))
    if strategy is RolloutStrategy.IN_PLACE and serving.hashes.load != desired.target.record.hashes.load:
        return (*(step.weight for step in desired.rollout.steps if step.weight), 100)
    return (100,)


def _surged(desired: Desired) -> tuple[int, ...]:
    """At each step: the share of the pods, or that of the step where Gateways make it so."""
    shares: list[int] = []
    for step in desired.rollout.steps:
        if step.weight == 0:
            continue  # no pod holds both revisions, so nothing could be compared
        new, given = pods_at(step.weight, max(1, desired.replicas))
        old = max(0, desired.replicas - desired.rollout.max_unavailable - given)
        natural = 100 * new / (new + old)
        straight = old if step.weight < natural else new
        is_exact = desired.weighted and straight >= LEAST_PODS
        shares.append(step.weight if is_exact else round(natural))
    return tuple(dict.fromkeys((*shares, 100)))


def changes(old: RevisionRecord, new: RevisionRecord) -> tuple[str, ...]:
    """What differs, a line each, by path. Secrets are only named in a spec, so no value of one can show."""
    before, after = dict(_flat("", _specified(old))), dict(_flat("", _specified(new)))
    lines = [
        f"{path}: {_shown(before.get(path))} → {_shown(after.get(path))}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more"]
    return tuple(lines)


def _specified(record: RevisionRecord) -> Mapping[str, Any]:
    """The part of a record that people wrote."""
    members = {
        member.name: {**member.definition.wire(), **({"files": _digest(member.files)} if member.files else {})}
        for member in record.members
    }
    graph = record.graph.wire() if record.graph else {}
    return {"version": record.version, "image": record.image, "pods": record.serving.wire(), **graph, "models": members}


def _digest(files: Mapping[str, str]) -> str:
    """Stands for the files of a ConfigMap, which are too long for a line: equal for equal files."""
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()[:12]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), item)
    else:
        yield path, value


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"
