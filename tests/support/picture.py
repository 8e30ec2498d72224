"""What a rollout has come to, in a form that two rollouts can be compared by: revisions by age, nothing named."""

import base64
from dataclasses import dataclass
from typing import Any

from tests.support.world import CHAIN, World

from podium_crds.keys import LABEL_MODEL, LABEL_PIPELINE, LABEL_POOL
from podium_operator.kube.kinds import Ref
from podium_operator.metrics import Metrics
from podium_operator.pods.client import AdminKeys, PodClient
from podium_operator.pods.errors import PodError
from podium_operator.resources.assignment import read_assignment
from podium_operator.resources.names import admin_key


@dataclass(frozen=True, slots=True)
class Holding:
    """One pod: what it holds and what answers, 0 being the newest revision."""

    ready: bool
    held: tuple[int, ...]
    promoted: int | None
    weights: tuple[int, ...]
    """By revision held."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything of one resource that lasts. Revisions are counted from the newest, 0."""

    pools: tuple[tuple[int, int | None, tuple[int, ...]], ...]
    """Replicas, the promoted revision and all in the ConfigMap, by pool."""
    pods: tuple[Holding, ...]
    conditions: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[int, int], ...]
    """Revisions of status and their share of traffic."""
    counts: tuple[int | None, ...]
    canary: bool

    @property
    def complete(self) -> bool:
        """One pool, every pod with the newest revision alone, and nothing left to do by its status."""
        done = ("Ready", "True") in {(kind, status) for kind, status, _ in self.conditions}
        [replicas, *others] = [replicas for replicas, _, _ in self.pools] or [0]
        alone = all(pod == Holding(ready=True, held=(0,), promoted=0, weights=(100,)) for pod in self.pods)
        named = all(revisions == (0,) for _, _, revisions in self.pools)
        return done and alone and named and not others and len(self.pods) == replicas == self.counts[-1]


class Stored:
    """Reads pictures of one resource, and checks what must hold of any of them."""

    def __init__(self, world: World, of: tuple[str, str]) -> None:
        self._world = world
        self._name, self._kind = of
        self._label = LABEL_PIPELINE if of == CHAIN else LABEL_MODEL

    async def picture(self) -> Picture:
        """As it is now. Raises AssertionError where something contradicts itself."""
        client, namespace = self._world.client, self._world.namespace
        selector = f"{self._label}={self._name}"
        resource = await client.get(Ref(self._kind, namespace, self._name))
        records = await client.list("ControllerRevision", namespace, label_selector=selector)
        records.sort(key=lambda each: -int(each["revision"]))
        ages = {each["metadata"]["name"]: age for age, each in enumerate(records)}
        deployments = await client.list("Deployment", namespace, label_selector=selector)
        promoted: dict[str, str | None] = {}
        pools = []
        for each in sorted(deployments, key=lambda found: str(found["metadata"]["name"])):
            pool = each["metadata"]["name"]
            assignment = read_assignment(await client.get(Ref("ConfigMap", namespace, pool)))
            assert assignment is not None, f"{pool} has pods and no assignment"
            names = [revision.name for revision in assignment.revisions]
            assert set(names) <= ages.keys(), f"{pool} names a revision that is recorded nowhere: {names}"
            assert assignment.promoted in (None, *names), f"{pool} promotes what it does not name"
            promoted[pool] = assignment.promoted
            age = ages[assignment.promoted] if assignment.promoted else None
            pools.append((int(each["spec"]["replicas"]), age, tuple(sorted(ages[name] for name in names))))
        pods = await self._pods(ages, promoted)
        status: dict[str, Any] = resource.get("status") or {}
        generation = resource["metadata"]["generation"]
        return Picture(
            pools=tuple(pools),
            pods=tuple(sorted(pods, key=repr)),
            conditions=tuple(
                sorted(
                    (each["type"], each["status"], each["reason"])
                    for each in status.get("conditions", ())
                    if each["observedGeneration"] == generation
                )
            ),
            rows=tuple(
                sorted((ages.get(row["name"], -1), int(row["trafficPercent"])) for row in status.get("revisions", ()))
            ),
            counts=tuple(status.get(name) for name in ("replicas", "readyReplicas", "availableReplicas")),
            canary="canary" in status,
        )

    async def _pods(self, ages: dict[str, int], promoted: dict[str, str | None]) -> list[Holding]:
        found = await self._world.client.find(Ref("Secret", self._world.namespace, admin_key(self._name)))
        if found is None:
            return []
        keys = AdminKeys(base64.b64decode(found["data"]["current"]))
        holdings = []
        async with PodClient(Metrics()) as pods:
            for pod in list(self._world.node.pods.values()):
                labels = pod.manifest["metadata"]["labels"]
                if labels.get(self._label) != self._name:
                    continue
                try:
                    report = await pods.get_report(pod.ip, pod.uid, keys)
                except PodError:
                    holdings.append(Holding(ready=False, held=(), promoted=None, weights=()))
                    continue
                rows = sorted((ages[row.name], row.weight) for row in report.revisions if row.name in ages)
                assert len(report.revisions) <= 2, f"{pod.name} holds {[row.name for row in report.revisions]}"
                age = ages.get(report.promoted) if report.promoted else None
                written = ages.get(promoted.get(labels[LABEL_POOL]) or "")
                if age is not None and written is not None and not report.draining:
                    # Else a container that restarts now would come up at an older version than it served.
                    assert age >= written, f"{pod.name} is ahead of its ConfigMap"
                held, weights = tuple(age for age, _ in rows), tuple(weight for _, weight in rows)
                ready = pod.ready_since is not None and "terminating" not in pod.status
                holdings.append(Holding(ready=ready, held=held, promoted=age, weights=weights))
        return holdings
