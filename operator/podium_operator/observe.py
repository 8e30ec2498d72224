"""API objects (from the cache) and pods' reports → `Observed`. Reads only.

The cache is primed before any pass. What it says may be a moment old: every write that depends on it carries a
precondition, and what must not exist yet is created, never overwritten.
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from podium_crds.assignment import Report
from podium_crds.keys import ANNOTATION_TEMPLATE_VERSION, LABEL_POOL
from podium_crds.serving import GPU_RESOURCE
from podium_crds.token import MIN_KEY_BYTES
from podium_operator.cache import Cache
from podium_operator.observation import Observation
from podium_operator.pods.client import AdminKeys
from podium_operator.pods.errors import PodError
from podium_operator.resources import names
from podium_operator.resources.assignment import read_assignment
from podium_operator.resources.deployment import CONTAINER
from podium_operator.resources.hashing import desired_hash
from podium_operator.resources.labels import (
    IMAGE,
    PROMOTED_AT,
    ROTATE_ADMIN_KEY,
    SHAPE_HASH,
    WITHDRAWN_AT,
    controlled_by,
)
from podium_operator.resources.revision import read_revision
from podium_operator.resources.secret import CURRENT, PREVIOUS
from podium_operator.state import (
    Child,
    Key,
    KnownRevision,
    NodeCapacity,
    Observed,
    ObservedPod,
    Owner,
    Pool,
    PoolStamp,
)
from podium_operator.times import parse_time

Manifest = dict[str, Any]

SERVICE_NAME = "kubernetes.io/service-name"
"""On an EndpointSlice, by Kubernetes: the Service that it is of."""
STABLE_KINDS = ("Service", "Secret", "PodDisruptionBudget")


class Reports(Protocol):
    """Where pods' reports come from: the pods themselves, or the API server's proxy before them."""

    async def get_report(self, pod_ip: str, pod_uid: str, keys: AdminKeys) -> Report:
        """What the pod says it holds. Raises PodError."""


class Observer:
    """Reads the cache and asks the pods. Holds nothing between passes."""

    def __init__(self, cache: Cache, pods: Reports) -> None:
        self._cache = cache
        self._pods = pods

    async def observe(self, owner: Owner) -> Observation:
        """Everything about the children of one resource, with a fresh report of each running pod."""
        key = Key(str(owner.resource.kind), owner.resource.namespace, owner.resource.name)
        keys, rotation = self._admin_keys(key, owner)
        pools = self._pools(key, owner)
        if keys is not None:
            pools = await self._with_reports(pools, keys)
        observed = Observed(
            pools=pools,
            revisions=self._revisions(key, owner),
            children=self._children(key, owner),
            nodes=self._nodes(),
        )
        return Observation(observed, keys, rotation)

    def _pools(self, key: Key, owner: Owner) -> tuple[Pool, ...]:
        deployments = _by_ordinal(self._owned("Deployment", key, owner), owner)
        configmaps = _by_ordinal(self._owned("ConfigMap", key, owner), owner)
        pods = self._pods_by_pool(key)
        found = []
        for ordinal in sorted(deployments.keys() | configmaps.keys()):
            name = names.pool(owner.resource.name, ordinal)
            pool = Pool(ordinal=ordinal, name=name, pods=pods.get(name, ()))
            pool = _with_deployment(pool, deployments.get(ordinal))
            found.append(_with_configmap(pool, configmaps.get(ordinal)))
        return tuple(found)

    def _pods_by_pool(self, key: Key) -> Mapping[str, tuple[ObservedPod, ...]]:
        ready = _ready_endpoints(self._cache.children("EndpointSlice", key))
        routed = ready.get(names.service(key.name), set())
        cordoned = {
            node["metadata"]["name"] for node in self._cache.objects("Node") if node["spec"].get("unschedulable")
        }
        found: dict[str, list[ObservedPod]] = {}
        for manifest in self._cache.children("Pod", key):
            pool = (manifest["metadata"].get("labels") or {}).get(LABEL_POOL)
            if pool is None or manifest.get("status", {}).get("phase") in ("Failed", "Succeeded"):
                continue  # an ended pod holds nothing and comes back under another name
            pod = read_pod(manifest)
            pod = replace(
                pod,
                endpoint_ready=pod.uid in routed,
                pool_endpoint_ready=pod.uid in ready.get(names.pool_service(pool), ()),
                cordoned=pod.node in cordoned,
            )
            found.setdefault(pool, []).append(pod)
        return {pool: tuple(sorted(pods, key=lambda pod: pod.name)) for pool, pods in found.items()}

    async def _with_reports(self, pools: tuple[Pool, ...], keys: AdminKeys) -> tuple[Pool, ...]:
        asked = [pod for pool in pools for pod in pool.pods if pod.live and pod.ip]
        answers = dict(await asyncio.gather(*(self._report(pod, keys) for pod in asked)))
        return tuple(replace(pool, pods=tuple(answers.get(pod.uid, pod) for pod in pool.pods)) for pool in pools)

    async def _report(self, pod: ObservedPod, keys: AdminKeys) -> tuple[str, ObservedPod]:
        assert pod.ip is not None
        try:
            report = await self._pods.get_report(pod.ip, pod.uid, keys)
        except PodError as exc:
            return pod.uid, replace(pod, unreachable=str(exc))
        return pod.uid, replace(pod, report=report)

    def _revisions(self, key: Key, owner: Owner) -> Mapping[str, KnownRevision]:
        found = (read_revision(manifest) for manifest in self._owned("ControllerRevision", key, owner))
        return {known.name: known for known in found if known is not None}

    def _children(self, key: Key, owner: Owner) -> Mapping[tuple[str, str], Child]:
        return {
            (kind, manifest["metadata"]["name"]): Child(
                kind=kind,
                name=manifest["metadata"]["name"],
                uid=manifest["metadata"]["uid"],
                desired_hash=desired_hash(manifest),
                controlled=controlled_by(manifest, owner.uid),
            )
            for kind in STABLE_KINDS
            for manifest in self._cache.children(kind, key)
        }

    def _admin_keys(self, key: Key, owner: Owner) -> tuple[AdminKeys | None, str]:
        wanted = names.admin_key(owner.resource.name)
        for manifest in self._owned("Secret", key, owner):
            if manifest["metadata"]["name"] == wanted:
                current, previous = _decoded(manifest, CURRENT), _decoded(manifest, PREVIOUS)
                rotation = (manifest["metadata"].get("annotations") or {}).get(ROTATE_ADMIN_KEY, "")
                return (AdminKeys(current, previous) if current else None), rotation
        return None, ""

    def _nodes(self) -> tuple[NodeCapacity, ...] | None:
        nodes = self._cache.objects("Node")
        found = tuple(
            NodeCapacity(
                name=node["metadata"]["name"],
                schedulable=not node["spec"].get("unschedulable") and _node_ready(node),
                gpus=_whole(node["status"]["allocatable"].get(GPU_RESOURCE)),
            )
            for node in nodes
        )
        return found or None

    def _owned(self, kind: str, key: Key, owner: Owner) -> list[Manifest]:
        return [each for each in self._cache.children(kind, key) if controlled_by(each, owner.uid)]


def read_pod(manifest: Mapping[str, Any]) -> ObservedPod:
    """A pod as the API server has it, without what other objects and its report say."""
    metadata, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    container: Mapping[str, Any] = next(
        (each for each in status.get("containerStatuses") or () if each["name"] == CONTAINER), {}
    )
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        gpus=_gpus(spec),
        created=parse_time(metadata.get("creationTimestamp")),
        running_since=parse_time(((container.get("state") or {}).get("running") or {}).get("startedAt")),
        ready_since=_true_since(conditions.get("Ready")),
        terminating=metadata.get("deletionTimestamp") is not None,
        restarts=int(container.get("restartCount") or 0),
        unschedulable=_unschedulable(conditions.get("PodScheduled")),
        waiting=_waiting(container),
        oom_killed_at=_oom_killed(container),
    )


def _true_since(condition: Mapping[str, Any] | None) -> datetime | None:
    if condition is None or condition.get("status") != "True":
        return None
    return parse_time(condition.get("lastTransitionTime"))


def _unschedulable(condition: Mapping[str, Any] | None) -> str | None:
    if condition is None or condition.get("status") != "False" or condition.get("reason") != "Unschedulable":
        return None
    return str(condition.get("message") or "no node takes it")


def _waiting(container: Mapping[str, Any]) -> str | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason")
    return f"{reason}: {waiting.get('message') or 'no message'}" if reason else None


def _oom_killed(container: Mapping[str, Any]) -> datetime | None:
    for state in ("state", "lastState"):
        ended = (container.get(state) or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return parse_time(ended.get("finishedAt"))
    return None


def _gpus(spec: Mapping[str, Any]) -> int:
    found = 0
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        found += _whole(amounts.get(GPU_RESOURCE))
    return found


def _whole(quantity: object) -> int:
    text = str(quantity or 0)
    return int(text) if text.isdecimal() else 0


def _node_ready(node: Manifest) -> bool:
    return any(each.get("status") == "True" for each in node["status"].get("conditions") or ())


def _ready_endpoints(slices: list[Manifest]) -> Mapping[str, set[str]]:
    """Service → UIDs of the pods that some EndpointSlice of it names as ready."""
    found: dict[str, set[str]] = {}
    for each in slices:
        service = (each["metadata"].get("labels") or {}).get(SERVICE_NAME, "")
        for endpoint in each.get("endpoints") or ():
            uid = (endpoint.get("targetRef") or {}).get("uid")
            if uid and (endpoint.get("conditions") or {}).get("ready"):
                found.setdefault(service, set()).add(uid)
    return found


def _by_ordinal(manifests: list[Manifest], owner: Owner) -> dict[int, Manifest]:
    found = {}
    for manifest in manifests:
        ordinal = names.ordinal(owner.resource.name, manifest["metadata"]["name"])
        if ordinal is not None:
            found[ordinal] = manifest
    return found


def _with_deployment(pool: Pool, manifest: Manifest | None) -> Pool:
    if manifest is None:
        return pool
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations") or {}
    version = annotations.get(ANNOTATION_TEMPLATE_VERSION, "")
    failing = [each for each in (manifest.get("status") or {}).get("conditions") or () if _replica_failure(each)]
    return replace(
        pool,
        stamp=PoolStamp(
            annotations.get(SHAPE_HASH, ""), int(version) if version.isdecimal() else 0, annotations.get(IMAGE, "")
        ),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        replicas=int(manifest["spec"].get("replicas") or 0),
        deleting=metadata.get("deletionTimestamp") is not None,
        deployment_problem=str(failing[0].get("message")) if failing else None,
    )


def _replica_failure(condition: Mapping[str, Any]) -> bool:
    return condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"


def _with_configmap(pool: Pool, manifest: Manifest | None) -> Pool:
    if manifest is None:
        return pool
    metadata = manifest["metadata"]
    return replace(
        pool,
        assignment=read_assignment(manifest),
        assignment_uid=metadata["uid"],
        assignment_resource_version=metadata["resourceVersion"],
        promoted_at=parse_time((metadata.get("annotations") or {}).get(PROMOTED_AT)),
        withdrawn_at=parse_time((metadata.get("annotations") or {}).get(WITHDRAWN_AT)),
    )


def _decoded(secret: Manifest, name: str) -> bytes | None:
    """The key, or None where it is missing or too short to be used."""
    try:
        key = base64.b64decode((secret.get("data") or {}).get(name) or "", validate=True)
    except binascii.Error:
        return None
    return key if len(key.strip()) >= MIN_KEY_BYTES else None
