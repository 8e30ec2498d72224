"""One `Action` → calls to the API server or to a pod, with the preconditions that the action names.

Every answer goes into the cache, so that the next pass sees its own writes. A failed precondition raises Conflict: the
next pass decides anew.
"""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from podium_crds.rollout import RolloutSpec
from podium_crds.serving import PodMetadata
from podium_operator.cache import Cache
from podium_operator.kube.client import KubeClient
from podium_operator.kube.errors import Conflict, NotFound
from podium_operator.kube.kinds import Ref, ref
from podium_operator.logs import get_logger
from podium_operator.observation import Observation
from podium_operator.ownership import NotOursError, refuse_foreign
from podium_operator.pods.client import AdminKeys, PodClient
from podium_operator.pods.errors import PodError
from podium_operator.resources import names
from podium_operator.resources.assignment import assignment_configmap
from podium_operator.resources.deployment import deployment
from podium_operator.resources.disruption import disruption_budget
from podium_operator.resources.hashing import desired_hash, stamped
from podium_operator.resources.labels import QUARANTINE, WITHDRAWN_AT
from podium_operator.resources.revision import (
    controller_revision,
    digests_annotation,
    quarantine_annotation,
    served_annotation,
)
from podium_operator.resources.secret import KEY_BYTES, admin_key
from podium_operator.resources.service import pool_service, service
from podium_operator.rollout.actions import (
    Action,
    CreatePool,
    DeletePool,
    NoteServed,
    PinDigests,
    PruneRevision,
    Push,
    Quarantine,
    RecordRevision,
    Release,
    ScalePool,
    Withdraw,
    WriteAssignment,
)
from podium_operator.state import KnownRevision, Owner, Pool
from podium_operator.times import rfc3339

log = get_logger(__name__)

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose children are written, and the parts of its spec that make no revision."""

    owner: Owner
    rollout: RolloutSpec
    pod_metadata: PodMetadata
    replicas: int
    rotation: str = ""
    """The resource's rotate-admin-key annotation."""
    grpc: bool = False
    """Whether the Service has a port for gRPC."""
    pool_services: frozenset[str] = frozenset()
    """Pools that need a Service of their own."""
    drops_pool_services: bool = False
    """Whether Services of other pools may go."""


class Performer:
    """Carries out actions. Holds nothing between passes."""

    def __init__(self, client: KubeClient, cache: Cache, pods: PodClient) -> None:
        self._client = client
        self._cache = cache
        self._pods = pods

    async def children(self, scope: Scope, observation: Observation) -> None:
        """Bring the stable children (Secret, Service, PodDisruptionBudget) to what the spec asks for."""
        await self._admin_key(scope, observation)
        for manifest in (service(scope.owner, grpc=scope.grpc), disruption_budget(scope.owner, scope.replicas)):
            await self._ensure(scope.owner, stamped(manifest), observation)
        await self._pool_services(scope, observation)

    async def _pool_services(self, scope: Scope, observation: Observation) -> None:
        owner = scope.owner
        for pool in sorted(scope.pool_services):
            try:
                await self._ensure(owner, stamped(pool_service(owner, pool)), observation)
            except NotOursError as exc:
                # Without it the share is that of the pods: no reason to stop a rollout.
                log.warning("pool_service_not_ours", pool=pool, cause=str(exc))
        wanted = {names.pool_service(pool) for pool in scope.pool_services}
        for (kind, name), child in observation.observed.children.items():
            is_pools = kind == "Service" and child.controlled and name != names.service(owner.resource.name)
            if scope.drops_pool_services and is_pools and name not in wanted:
                await self._drop(Ref("Service", owner.resource.namespace, name), child.uid)

    async def _drop(self, wanted: Ref, uid: str) -> None:
        with contextlib.suppress(NotFound):
            await self._client.delete(wanted, uid=uid)
        log.info("pool_service_removed", service=str(wanted))

    async def perform(self, action: Action, scope: Scope, keys: AdminKeys | None) -> None:
        """Carry out one action. Raises KubeError; a pod that does not take a push is logged, and seen in its report."""
        owner = scope.owner
        match action:
            case RecordRevision(revision, ordinal):
                await self._create(owner, controller_revision(owner, revision.record, ordinal))
            case PinDigests() | NoteServed() | Quarantine() | Release():
                await self._annotate(owner, action.revision, _learnt(action))
            case WriteAssignment():
                await self._write_assignment(owner, action)
            case CreatePool(pool, _, revision, replicas):
                live = (scope.rollout, scope.pod_metadata)
                await self._create(owner, deployment(owner, pool, revision.record, replicas, live))
            case ScalePool(pool, replicas):
                await self._scale(pool, owner.resource.namespace, replicas)
            case Withdraw():
                await self._withdraw(owner, action)
            case Push():
                await self._push(action, keys)
            case DeletePool(pool):
                await self._delete_pool(owner, action)
            case PruneRevision(revision):
                wanted = Ref("ControllerRevision", owner.resource.namespace, revision.name)
                await self._delete(wanted, revision.uid, revision.resource_version)
            case _:
                assert_never(action)
        log.info("action_performed", **_named(owner), **described(action))

    async def dry_run(self, manifest: Manifest) -> None:
        """Have the API server judge a manifest without storing it. Raises Invalid or Forbidden with its message."""
        await self._client.dry_run_apply(manifest)

    async def _create(self, owner: Owner, manifest: Manifest) -> None:
        """Make what must not exist yet. Raises NotOursError where something else has the name; Conflict where it is
        ours and the cache had not been told, or belongs to a deleted resource of the same name and is on its way out.
        """
        try:
            made = await self._client.create(manifest)
        except Conflict as exc:
            live = await self._client.find(ref(manifest)) if exc.already_exists else None
            if live is not None:
                refuse_foreign(live, owner)
                self._cache.wrote(live)
            raise
        self._cache.wrote(made)

    async def _annotate(self, owner: Owner, revision: KnownRevision, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of a ControllerRevision, None removing one, under the resourceVersion seen.

        By PUT: the API server (1.35) takes any patch of a ControllerRevision for a change of its immutable data.
        """
        live = await self._client.get(Ref("ControllerRevision", owner.resource.namespace, revision.name))
        merged = {**(live["metadata"].get("annotations") or {}), **annotations}
        live["metadata"]["annotations"] = {name: value for name, value in merged.items() if value is not None}
        live["metadata"]["resourceVersion"] = revision.resource_version
        self._cache.wrote(await self._client.replace(live))

    async def _write_assignment(self, owner: Owner, action: WriteAssignment) -> None:
        manifest = assignment_configmap(owner, action.pool, action.assignment, action.promoted_at)
        if action.resource_version is None:
            await self._create(owner, manifest)
            return
        patch = {"metadata": {"annotations": manifest["metadata"]["annotations"]}, "data": manifest["data"]}
        written = await self._client.merge_patch(ref(manifest), patch, resource_version=action.resource_version)
        self._cache.wrote(written)

    async def _withdraw(self, owner: Owner, action: Withdraw) -> None:
        """The moment first: an operator that dies in between takes the pods back in its next pass."""
        pool, namespace = action.pool, owner.resource.namespace
        patch = {"metadata": {"annotations": {WITHDRAWN_AT: rfc3339(action.at)}}}
        configmap = Ref("ConfigMap", namespace, pool.name)
        version = pool.assignment_resource_version
        self._cache.wrote(await self._client.merge_patch(configmap, patch, resource_version=version))
        await self._scale(pool, namespace, action.replicas)

    async def _scale(self, pool: Pool, namespace: str, replicas: int) -> None:
        wanted = Ref("Deployment", namespace, pool.name)
        await self._client.patch_scale(wanted, replicas, resource_version=pool.resource_version)
        self._cache.wrote(await self._client.get(wanted))

    async def _push(self, action: Push, keys: AdminKeys | None) -> None:
        if keys is None or action.pod.ip is None:
            return
        try:
            await self._pods.put_assignment(action.pod.ip, action.pod.uid, action.assignment, keys)
        except PodError as exc:
            log.warning("push_not_taken", pod=action.pod.name, cause=str(exc))

    async def _delete_pool(self, owner: Owner, action: DeletePool) -> None:
        pool, namespace = action.pool, owner.resource.namespace
        if pool.uid:
            await self._delete(Ref("Deployment", namespace, pool.name), pool.uid, pool.resource_version)
        if pool.assignment_uid:
            wanted = Ref("ConfigMap", namespace, pool.name)
            await self._delete(wanted, pool.assignment_uid, pool.assignment_resource_version)

    async def _delete(self, wanted: Ref, uid: str, resource_version: str) -> None:
        try:
            await self._client.delete(wanted, uid=uid, resource_version=resource_version)
        except NotFound:
            log.info("already_gone", object=str(wanted))

    async def _ensure(self, owner: Owner, manifest: Manifest, observation: Observation) -> None:
        """Apply a stable child unless the live one carries the same hash, unspoilt. Raises NotOursError."""
        wanted = ref(manifest)
        child = observation.observed.children.get((wanted.kind, wanted.name))
        current = child is not None and child.controlled and child.desired_hash == desired_hash(manifest)
        if current and not self._cache.drifted(wanted):
            return
        if child is None or not child.controlled:
            live = await self._client.find(wanted)
            if live is not None:
                refuse_foreign(live, owner)
        self._cache.wrote(await self._client.apply(manifest))

    async def _admin_key(self, scope: Scope, observation: Observation) -> None:
        """Make the key once; rotate it where the resource's annotation has a value that the Secret does not answer."""
        owner, keys = scope.owner, observation.admin_keys
        wanted = Ref("Secret", owner.resource.namespace, names.admin_key(owner.resource.name))
        if keys is not None and scope.rotation in ("", observation.rotation):
            return
        live = await self._client.find(wanted)
        if live is None:
            await self._create(owner, admin_key(owner, secrets.token_bytes(KEY_BYTES), None, scope.rotation))
            return
        refuse_foreign(live, owner)
        renewed = admin_key(owner, secrets.token_bytes(KEY_BYTES), keys.current if keys else None, scope.rotation)
        patch = {"data": renewed["data"], "metadata": {"annotations": renewed["metadata"].get("annotations", {})}}
        version = live["metadata"]["resourceVersion"]
        self._cache.wrote(await self._client.merge_patch(wanted, patch, resource_version=version))


def _learnt(action: PinDigests | NoteServed | Quarantine | Release) -> Mapping[str, str | None]:
    """Annotations of a revision's record; None takes one away."""
    match action:
        case PinDigests(revision, digests):
            return digests_annotation(revision, digests)
        case NoteServed(_, at):
            return served_annotation(at)
        case Quarantine(_, problem, retry_token, judged_under):
            return quarantine_annotation(problem, retry_token, judged_under)
        case Release():
            return {QUARANTINE: None}
        case _:
            assert_never(action)


def described(action: Action) -> dict[str, str | int]:
    """The facts of an action, for logs."""
    kind = type(action).__name__
    match action:
        case WriteAssignment(pool, _, assignment):
            sequence = assignment.generation.sequence
            return {"action": kind, "pool": pool, "promoted": str(assignment.promoted), "generation": sequence}
        case CreatePool(pool, _, revision, replicas):
            return {"action": kind, "pool": pool, "revision": revision.name, "replicas": replicas}
        case ScalePool(pool, replicas, why):
            return {"action": kind, "pool": pool.name, "replicas": replicas, "why": why}
        case Push(pod, assignment):
            sequence = assignment.generation.sequence
            return {"action": kind, "pod": pod.name, "promoted": str(assignment.promoted), "generation": sequence}
        case DeletePool(pool):
            return {"action": kind, "pool": pool.name}
        case Withdraw(pool, replicas):
            return {"action": kind, "pool": pool.name, "replicas": replicas}
        case _:
            return {"action": kind, "revision": action.revision.name}


def _named(owner: Owner) -> dict[str, str]:
    resource = owner.resource
    return {"kind": str(resource.kind), "namespace": resource.namespace, "name": resource.name}
