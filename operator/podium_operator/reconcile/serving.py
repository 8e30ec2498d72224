"""The pass that both kinds share, once the revision that the spec asks for is known.

Order: observe → plan → status (the strategy is written before it is followed) → stable children → actions. Each action
stands alone: whatever stops a pass, the next one goes on from what it finds.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from podium_crds.errors import AssignmentTooLargeError
from podium_crds.parse import Resource
from podium_crds.reasons import ConditionType, Reason
from podium_crds.revision import RevisionRecord
from podium_crds.status import ServingStatus
from podium_operator.cache import Cache
from podium_operator.events import Events
from podium_operator.kube.client import KubeClient
from podium_operator.kube.errors import Conflict, Forbidden, Invalid
from podium_operator.logs import get_logger
from podium_operator.observation import Observation
from podium_operator.observe import Observer
from podium_operator.ownership import NotOursError
from podium_operator.perform import Performer, Scope
from podium_operator.pods.client import PodClient
from podium_operator.promql import Prometheus
from podium_operator.reconcile.desired import Subjected, desired_of, subjected
from podium_operator.reconcile.reporting import Reporter
from podium_operator.resources import names
from podium_operator.resources.deployment import deployment
from podium_operator.resources.labels import (
    ROTATE_ADMIN_KEY,
    stable_label,
)
from podium_operator.resources.service import grpc_url, url
from podium_operator.rollout import measured
from podium_operator.rollout.actions import Plan
from podium_operator.rollout.capacity import serves
from podium_operator.rollout.planner import plan
from podium_operator.routes import Routes, is_settled
from podium_operator.state import Desired, Facts, Key, KnownRevision, Observed, Problem, Result, Routed, Stage
from podium_operator.status.conditions import Judgement
from podium_operator.status.rollup import Subject, loaded

log = get_logger(__name__)

Manifest = dict[str, Any]

AFTER_ACTION_S = 0.2
"""Between an action and the look at what it did."""
CONFLICT_S = 0.5
"""Somebody else wrote first: look again once the watch has told."""
ROUTE_S = 5.0
"""Between two looks at a route that no Gateway has accepted yet."""
INVALID_S = 60.0
"""A spec that cannot be used waits for its next generation; references are looked for now and then."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What reconcilers share. Borrowed; nothing here belongs to one resource."""

    client: KubeClient
    cache: Cache
    pods: PodClient
    events: Events
    transitions: Callable[[], int]
    """The fencing number of the Lease. Raises LeaseLost where this process does not lead."""
    runtime_image: str
    """Image of resources that name none."""
    wake: Callable[[Key], None]
    """Has a resource looked at soon."""
    now: Callable[[], datetime]
    prometheus: Prometheus
    """Asked what rollouts are judged by, where they name a server."""


class Serving:
    """Passes over resources of either kind."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._observer = Observer(parts.cache, parts.pods)
        self._performer = Performer(parts.client, parts.cache, parts.pods)
        self._routes = Routes(parts.client)
        self._reporter = Reporter(parts.client, parts.cache, parts.events, parts.wake)

    def begin(self, key: Key) -> Subjected | None:
        """The resource as it is now; None where it is gone or on its way out: its children go with it."""
        manifest = self._parts.cache.parent(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp") is not None:
            return None
        return subjected(key, manifest)

    async def refuse(self, subject: Subjected, problem: Problem) -> Result:
        """The spec cannot be used: say so, and leave everything that serves as it is."""
        observation = await self._observer.observe(subject.owner)
        await self._refuse(subject, observation, problem)
        return Result(_jittered(INVALID_S))

    async def converge(self, subject: Subjected, resource: Resource, record: RevisionRecord) -> Result:
        """One step towards serving `record`."""
        observation = await self._observer.observe(subject.owner)
        desired = desired_of(subject, resource, record, observation.observed, self._parts.transitions())
        invalid = await self._judged_by_server(resource, desired, observation)
        if invalid is not None:
            await self._refuse(subject, observation, invalid)
            return Result(_jittered(INVALID_S))
        owner, gateway, before = subject.owner, resource.spec.exposure.gateway, _standing_route(subject.status)
        service = observation.observed.children.get(("Service", names.service(owner.resource.name)))
        has_service = service is not None and service.controlled
        seen = await self._routes.look(owner, gateway, before, has_service=has_service)
        observed = await self._measured(replace(observation.observed, route=seen.route), desired)
        observation = replace(observation, observed=observed)
        try:
            decided = plan(observed, desired, self._parts.now())
        except AssignmentTooLargeError as exc:
            await self._refuse(subject, observation, Problem(Reason.INVALID_SPEC, str(exc)))
            return Result(_jittered(INVALID_S))
        told = replace(decided.facts, degraded=decided.facts.degraded or _standing_error(subject.status))
        route = await self._routes.bring(owner, gateway, seen, decided.backends, self._now())
        await self._report(subject, observation, desired, told, route)
        try:
            await self._act(subject, resource, observation, decided)
        except Conflict as exc:
            log.info("precondition_failed", **subject.key._asdict(), cause=str(exc))
            return Result(CONFLICT_S)
        except (NotOursError, Invalid, Forbidden) as exc:
            failed = replace(decided.facts, degraded=_error(exc))
            await self._report(subject, observation, desired, failed, route)
            return Result(_jittered(INVALID_S))
        if told.degraded is not decided.facts.degraded:
            await self._report(subject, observation, desired, decided.facts, route)
        if decided.actions:
            return Result(AFTER_ACTION_S)
        pauses = [decided.requeue_after_s, None if is_settled(route) else ROUTE_S]
        return Result(min((_jittered(pause) for pause in pauses if pause is not None), default=None))

    async def _measured(self, observed: Observed, desired: Desired) -> Observed:
        """With what Prometheus says of a step, where it is asked."""
        asked = measured.question(desired)
        if asked is None:
            return observed
        return replace(observed, measured=await self._parts.prometheus.measure(asked.address, asked.query))

    async def _judged_by_server(self, resource: Resource, desired: Desired, observation: Observation) -> Problem | None:
        """What the API server says against pods of a shape that no pool has yet, asked before anything is touched."""
        record, observed = desired.target.record, observation.observed
        known = record.name in observed.revisions
        if (
            known
            or desired.replicas == 0
            or any(pool.stamp is not None and pool.stamp.shape_hash == record.hashes.shape for pool in observed.pools)
        ):
            return None
        # A name that no pool has, so that nothing there is can be in the way.
        pool = names.bounded(desired.owner.resource.name, "validation")
        live = (resource.spec.rollout, resource.spec.pod_metadata)
        try:
            await self._performer.dry_run(deployment(desired.owner, pool, record, desired.replicas, live))
        except (Invalid, Forbidden) as exc:
            return Problem(Reason.INVALID_SPEC, f"the API server refuses the pods: {exc}")
        return None

    async def _refuse(self, subject: Subjected, observation: Observation, problem: Problem) -> None:
        observed = observation.observed
        facts = Facts(
            stage=Stage.INVALID,
            target=subject.status.update_revision or "",
            current=subject.status.current_revision,
            available=any(serves(pod) for pool in observed.pools for pod in pool.pods),
            complete=False,
            problem=problem,
            strategy=subject.status.strategy,
        )
        route = _standing_route(subject.status)
        judgement = Judgement(facts, subject.generation, invalid=problem, routed=route)
        await self._reporter.report(subject.key, self._subject(subject, None), observed, judgement, self._now())

    async def _report(
        self, subject: Subjected, observation: Observation, desired: Desired, facts: Facts, route: Routed | None
    ) -> None:
        observed = observation.observed
        judgement = Judgement(
            facts,
            desired.generation,
            loaded=loaded(observed, facts.target),
            retained=facts.current not in (None, facts.target),
            suspended=bool(subject.manifest["spec"].get("suspend")),
            routed=route,
        )
        known = observed.revisions.get(desired.target.name, desired.target)
        described = self._subject(subject, known, desired.replicas)
        await self._reporter.report(subject.key, described, observed, judgement, self._now())

    async def _act(self, subject: Subjected, resource: Resource, observation: Observation, decided: Plan) -> None:
        scope = Scope(
            owner=subject.owner,
            rollout=resource.spec.rollout,
            pod_metadata=resource.spec.pod_metadata,
            replicas=resource.spec.desired_replicas,
            rotation=subject.annotation(ROTATE_ADMIN_KEY),
            grpc=resource.spec.exposure.grpc,
            pool_services=decided.pool_services,
            drops_pool_services=decided.drops_pool_services,
        )
        await self._performer.children(scope, observation)
        for action in decided.actions:
            await self._performer.perform(action, scope, observation.admin_keys)

    def _subject(self, subject: Subjected, target: KnownRevision | None, replicas: int | None = None) -> Subject:
        label, value = stable_label(subject.owner.resource)
        wanted = replicas if replicas is not None else int(subject.manifest["spec"].get("replicas", 1))
        exposure = subject.manifest["spec"].get("exposure") or {}
        grpc = grpc_url(subject.owner) if exposure.get("grpc") is True else None
        return Subject(subject.owner, url(subject.owner), f"{label}={value}", wanted, target, grpc)

    def _now(self) -> datetime:
        return self._parts.now()


def _error(exc: NotOursError | Invalid | Forbidden) -> Problem:
    quota = isinstance(exc, Forbidden) and exc.quota_exceeded
    return Problem(Reason.QUOTA_EXCEEDED if quota else Reason.RECONCILE_ERROR, str(exc))


def _standing_error(status: ServingStatus) -> Problem | None:
    """What stopped the last pass: it stands until a pass has ended well, so that the condition does not blink."""
    degraded = status.condition(ConditionType.DEGRADED)
    if degraded is None or degraded.reason not in (Reason.RECONCILE_ERROR, Reason.QUOTA_EXCEEDED):
        return None
    return Problem(Reason(degraded.reason), degraded.message)


def _standing_route(status: ServingStatus) -> Routed | None:
    """What status says of the HTTPRoute."""
    said = status.condition(ConditionType.ROUTED)
    if said is None:
        return None
    is_known = said.reason in {str(reason) for reason in Reason}  # else of a later release
    return Routed(said.status, Reason(said.reason) if is_known else Reason.ROUTE_PENDING, said.message)


def _jittered(pause_s: float) -> float:
    return pause_s * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
