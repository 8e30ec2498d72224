"""`KubeClient`: the verbs of the API server that the operator uses, mappings in and out.

Writes go by server-side apply under one field manager, or carry a precondition. Every call has a timeout, a bounded
number of retries and a slot of a bounded number of concurrent ones. `metadata.managedFields` never comes back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from podium_crds.keys import FIELD_MANAGER
from podium_operator.kube.errors import Gone, KubeError, NotFound, from_status
from podium_operator.kube.kinds import Kind, Ref, kind, ref
from podium_operator.kube.transport import Body, Call, Transport

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_LIST_RESTARTS = 3

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A collection as it was at one resourceVersion."""

    items: tuple[Manifest, ...]
    resource_version: str


class KubeClient:
    """Typed errors (`kube.errors`), no caching. One per process and purpose; close it when done."""

    def __init__(self, transport: Transport, *, fence: Callable[[], None] | None = None) -> None:
        """`fence` is called right before every write and stops it by raising, as where the Lease was lost."""
        self._transport = transport
        self._fence = fence

    async def get(self, wanted: Ref) -> Manifest:
        """The object. Raises NotFound."""
        return await self._object(Call("GET", _path(wanted)))

    async def find(self, wanted: Ref) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            return await self.get(wanted)
        except NotFound:
            return None

    async def list(
        self,
        kind_name: str,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> list[Manifest]:
        """All objects that match, each with `kind` and `apiVersion`."""
        listing = await self.snapshot(
            kind_name, namespace, label_selector=label_selector, field_selector=field_selector
        )
        return list(listing.items)

    async def snapshot(
        self,
        kind_name: str,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing:
        """As `list`, and the resourceVersion that all of it is from. Read in pages; one that expires starts anew."""
        found = kind(kind_name)
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        for attempt in range(_LIST_RESTARTS):
            try:
                return await self._listing(found, namespace, {name: text for name, text in query.items() if text})
            except Gone:
                if attempt == _LIST_RESTARTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def apply(self, manifest: Mapping[str, Any], *, force: bool = True) -> Manifest:
        """Server-side apply of the fields given; others keep theirs, fields left out since are removed.

        `force` takes fields over from other managers; without it they are a Conflict.
        """
        return await self._object(_apply(manifest, force=force))

    async def dry_run_apply(self, manifest: Mapping[str, Any]) -> Manifest:
        """What `apply` would store, defaulted and admitted; stores nothing. Raises as `apply` would."""
        return await self._object(_apply(manifest, force=True, dry_run=True))

    async def apply_status(self, manifest: Mapping[str, Any]) -> Manifest:
        """Server-side apply to the status subresource. Raises NotFound where the object is gone; never creates it."""
        return await self._object(_apply(manifest, force=True, subresource="status"))

    async def create(self, manifest: Mapping[str, Any]) -> Manifest:
        """Raises Conflict (`already_exists`) where the name is taken. Never sent again once it may have been done."""
        found = kind(manifest["kind"])
        path = found.path(manifest["metadata"].get("namespace"))
        return await self._object(
            Call("POST", path, body=_complete(manifest), query={"fieldManager": FIELD_MANAGER}, idempotent=False)
        )

    async def replace(self, manifest: Mapping[str, Any]) -> Manifest:
        """PUT the whole object under its `metadata.resourceVersion`. Raises Conflict where that is outdated."""
        body = _complete(manifest)
        if not body["metadata"].get("resourceVersion"):
            raise ValueError(f"{ref(manifest)}: replace needs metadata.resourceVersion")
        query = {"fieldManager": FIELD_MANAGER}
        # Renewals would drown every other write in the metrics.
        verb = "LEASE" if manifest["kind"] == "Lease" else "PUT"
        return await self._object(Call("PUT", _path(ref(manifest)), body=body, query=query, verb=verb))

    async def merge_patch(self, wanted: Ref, patch: Mapping[str, Any], *, resource_version: str | None) -> Manifest:
        """JSON merge patch (lists are replaced whole). With `resource_version`: if still current, else Conflict."""
        return await self._merge(wanted, patch, resource_version, subresource=None)

    async def patch_scale(self, wanted: Ref, replicas: int, *, resource_version: str | None) -> Manifest:
        """Set the replicas through /scale. With `resource_version`: only if still current, else Conflict."""
        return await self._merge(wanted, {"spec": {"replicas": replicas}}, resource_version, subresource="scale")

    async def delete(
        self,
        wanted: Ref,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> None:
        """Delete under the preconditions given; a failed one is a Conflict. Raises NotFound where it is gone."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body: Manifest = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {name: value for name, value in preconditions.items() if value is not None},
        }
        await self._object(Call("DELETE", _path(wanted), body=body))

    async def from_pod(self, namespace: str, pod: str, port: int, path: str, headers: Mapping[str, str]) -> Body:
        """What a pod answers to a GET through the API server, for who is not in the cluster. Raises KubeError."""
        proxied = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}:{port}/proxy{path}"
        return await self._object(Call("GET", proxied, headers=headers, verb="PROXY"))

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def _merge(
        self, wanted: Ref, patch: Mapping[str, Any], resource_version: str | None, subresource: str | None
    ) -> Manifest:
        body = dict(patch)
        if resource_version is not None:
            body["metadata"] = {**body.get("metadata", {}), "resourceVersion": resource_version}
        path = kind(wanted.kind).path(wanted.namespace, wanted.name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._object(Call("PATCH", path, body=body, query=query, content_type=_MERGE))

    async def _listing(self, found: Kind, namespace: str | None, selectors: Mapping[str, str]) -> Listing:
        query = {"limit": str(found.page), **selectors}
        typed = {"apiVersion": found.api_version, "kind": found.name}  # items of a list come without their type
        items: list[Manifest] = []
        while True:
            answer = await self._object(Call("GET", found.path(namespace), query=query, verb="LIST"))
            items.extend({**typed, **_stripped(item)} for item in answer.get("items") or ())
            metadata = answer.get("metadata", {})
            token = metadata.get("continue")
            if not token:
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            query["continue"] = token

    async def _object(self, call: Call) -> Manifest:
        fence = self._fence if call.method != "GET" else None
        answer = await self._transport.send(call, fence)
        if answer.status == 401:
            await self._transport.reload_credentials()
            answer = await self._transport.send(call, fence)
        if answer.status >= 400:
            raise _error(call, answer.status, answer.body)
        return _stripped(answer.body)


def _error(call: Call, status: int, body: Body) -> KubeError:
    return from_status(status, body, called=f"{call.method} {call.path}")


def _stripped(manifest: Manifest) -> Manifest:
    metadata = manifest.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return manifest


def _complete(manifest: Mapping[str, Any]) -> Manifest:
    return {**manifest, "apiVersion": kind(manifest["kind"]).api_version}


def _path(wanted: Ref) -> str:
    return kind(wanted.kind).path(wanted.namespace, wanted.name)


def _apply(manifest: Mapping[str, Any], *, force: bool, dry_run: bool = False, subresource: str | None = None) -> Call:
    wanted = ref(manifest)
    query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
    if dry_run:
        query["dryRun"] = "All"
    path = kind(wanted.kind).path(wanted.namespace, wanted.name, subresource)
    verb = "DRY_RUN" if dry_run else "APPLY"
    return Call("PATCH", path, body=_complete(manifest), query=query, content_type=_APPLY, verb=verb)
