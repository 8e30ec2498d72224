"""`podium plan -f`: what the operator would do with a file, by its own planner, from live objects and pods' reports.

Nothing is written: the API server defaults and judges the file in a dry run, and the planner says the rest. Pods are
asked through the API server; where the user may not, their memory is unknown, and the plan says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from podium_crds.assignment import Report
from podium_crds.errors import CrdsError
from podium_crds.keys import ADMIN_PORT, ADMIN_REPORT_PATH, HEADER_ADMIN_TOKEN
from podium_crds.parse import parse_resource
from podium_crds.reasons import ConditionType
from podium_crds.token import admin_token
from podium_operator.cache import Cache
from podium_operator.commands import planned_route
from podium_operator.kube.client import KubeClient
from podium_operator.kube.errors import Forbidden, KubeError
from podium_operator.kube.kinds import ref
from podium_operator.metrics import Metrics
from podium_operator.observe import Observer
from podium_operator.pods.client import AdminKeys
from podium_operator.pods.errors import Unreachable
from podium_operator.reconcile.desired import desired_of, subjected
from podium_operator.reconcile.references import References, problem_of
from podium_operator.rollout.planner import plan
from podium_operator.state import Facts, Key, Observed, Problem, highest_generation
from podium_operator.watched import WATCHED

Manifest = dict[str, Any]

DEFAULT_IMAGE = "the operator's default image"
"""In place of a name that only the operator knows, for a resource that names none and has no pods yet."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What would become of one resource."""

    name: str
    facts: Facts | None
    problem: Problem | None = None
    """Why there is no plan."""
    unreported: int = 0
    """Pods whose report could not be read."""
    is_known: bool = True
    """Whether the resource exists."""
    route: tuple[str, ...] = ()
    """What would become of its HTTPRoute."""


class Reports:
    """Pods' reports through the API server's proxy, by the pods' addresses."""

    def __init__(self, client: KubeClient, cache: Cache) -> None:
        self._client = client
        self._cache = cache

    async def get_report(self, pod_ip: str, pod_uid: str, keys: AdminKeys) -> Report:
        """As PodClient.get_report. Raises Unreachable."""
        pod = next((each for each in self._cache.objects("Pod") if each["metadata"]["uid"] == pod_uid), None)
        if pod is None:
            raise Unreachable(f"there is no pod {pod_uid} at {pod_ip}")
        where = (pod["metadata"]["namespace"], pod["metadata"]["name"], ADMIN_PORT, ADMIN_REPORT_PATH)
        headers = {HEADER_ADMIN_TOKEN: admin_token(keys.current, pod_uid)}
        try:
            return Report.model_validate(await self._client.from_pod(*where, headers))
        except (KubeError, ValidationError) as exc:
            raise Unreachable(str(exc)) from exc


async def planned(client: KubeClient, manifest: Manifest, now: datetime) -> Planned:
    """What the operator would do if `manifest` were applied. Raises KubeError where the API server refuses it."""
    cache = Cache(Metrics())
    namespace = manifest["metadata"].setdefault("namespace", "default")
    for watched in WATCHED:
        scope = namespace if watched.kind.namespaced else None
        try:
            listing = await client.snapshot(watched.kind.name, scope, label_selector=watched.label_selector)
        except Forbidden:
            continue  # Secrets and nodes: without them reports and free GPUs are unknown
        cache.heal(watched.kind.name, listing, scope)
    live = cache.get(ref(manifest))
    admitted = await client.dry_run_apply(manifest)
    wanted = {**admitted, "status": (live or {}).get("status", {})}
    cache.wrote(wanted)
    key = Key(manifest["kind"], namespace, manifest["metadata"]["name"])
    subject = subjected(key, wanted)
    observed = (await Observer(cache, Reports(client, cache)).observe(subject.owner)).observed
    try:
        resource = parse_resource(subject.manifest)
        record = await References(client, cache).record(resource, _image(observed))
    except CrdsError as exc:
        return Planned(key.name, None, problem_of(exc), is_known=live is not None)
    gateway = resource.spec.exposure.gateway
    # Without either, the operator does not look for a route.
    is_routed = gateway is not None or subject.status.condition(ConditionType.ROUTED) is not None
    found = await planned_route.look(client, subject.owner) if is_routed else planned_route.LiveRoute()
    observed = replace(observed, route=found.observed)
    desired = desired_of(subject, resource, record, observed, highest_generation(observed.pools).transitions)
    decided = plan(observed, desired, now)
    return Planned(
        key.name,
        decided.facts,
        unreported=sum(pod.live and pod.report is None for pool in observed.pools for pod in pool.pods),
        is_known=live is not None,
        route=tuple(planned_route.announced(subject.owner, gateway, found, decided.backends)),
    )


def _image(observed: Observed) -> str:
    """That of the newest pool: an operator that was upgraded since leaves it until the pods' shape changes."""
    images = [pool.stamp.image for pool in observed.pools if pool.stamp is not None]
    return images[-1] if images else DEFAULT_IMAGE


def told(planned: Planned) -> str:
    """The plan in words, one fact a line."""
    if planned.problem is not None:
        return f"{planned.name}: would be refused ({planned.problem.reason}): {planned.problem.message}"
    facts = planned.facts
    assert facts is not None, "without a problem there are facts"
    route = [f"  route       {line}" for line in planned.route]
    if not planned.is_known:
        return "\n".join([f"{planned.name}: new; revision {facts.target} starts, all replicas at once", *route])
    if facts.complete:
        stays = "no pod would change" if route else "nothing would change"
        return "\n".join([f"{planned.name}: {stays}, {facts.target} serves", *route])
    lines = [f"{planned.name}: {facts.current or 'nothing'} → {facts.target}"]
    if facts.strategy is not None:
        lines.append(f"  strategy    {facts.strategy.resolved}: {facts.strategy.reason}")
    if facts.plan is not None:
        lines += [f"  change      {change}" for change in facts.plan.changes]
        lines += _costs(facts.plan.wire())
    if facts.problem is not None:
        lines.append(f"  waits       {facts.problem.reason}: {facts.problem.message}")
    if planned.unreported:
        lines.append(f"  unknown     {planned.unreported} pods gave no report: their memory is not counted")
    return "\n".join([*lines, *route])


def _costs(plan: Mapping[str, Any]) -> list[str]:
    shares = ", ".join(f"{percent} %" for percent in plan.get("trafficPercents", ()))
    memory = plan.get("memoryBytesNeeded", 0)
    return [
        f"  shares      {shares}",
        *([f"  GPUs        {plan['gpusNeeded']} more while it goes on"] if plan.get("gpusNeeded") else []),
        *([f"  memory      {memory / (1 << 20):.0f} MiB more in each pod while it goes on"] if memory else []),
        f"  gap         {plan.get('expectedGapSeconds', 0)} s",
    ]
