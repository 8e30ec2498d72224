"""What the watches last told, and what our own writes were answered: reconcilers read here, not from the API server.

Each object is kept as compact JSON of the fields the operator uses, so that a reader gets a copy of its own and
`managedFields` costs nothing. Newer resourceVersions win: an event that left the server before our last write changes
nothing. Absence here means "does not exist" only once `primed`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from podium_crds.keys import LABEL_MODEL, LABEL_PIPELINE
from podium_operator.kube.client import Listing, Manifest
from podium_operator.kube.kinds import Ref, ref
from podium_operator.metrics import Metrics
from podium_operator.projection import project
from podium_operator.workqueue import Key

MODEL = "InferenceModel"
PIPELINE = "InferencePipeline"
_MAX_TOMBSTONES = 10_000


@dataclass(slots=True)
class _Entry:
    body: bytes
    version: int
    owner: Key | None
    ours: bytes | None
    """`_content` of the answer to our last write; None: this process has not written it."""


@dataclass(frozen=True, slots=True)
class Healed:
    """What a listing changed in the cache that no watch had told."""

    changed: tuple[Ref, ...]
    removed: tuple[Ref, ...]
    owners: frozenset[Key]


class Cache:
    """All watched kinds of one process. Belongs to one event loop; no method waits."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._objects: dict[str, dict[Ref, _Entry]] = {}
        """kind → object; put and removed here only."""
        self._owned: dict[tuple[str, Key], set[Ref]] = {}
        """(kind, owner) → its children of that kind."""
        self._users: dict[Ref, set[Key]] = {}
        """InferenceModel → pipelines that refer to it, whether it exists or not."""
        self._tombstones: OrderedDict[Ref, int] = OrderedDict()
        """Deleted object → version of its deletion, so that a listing from before brings nothing back."""
        self.primed = False
        """Set by whoever filled it from complete listings."""

    def get(self, wanted: Ref) -> Manifest | None:
        """A copy of the object, or None."""
        entry = self._objects.get(wanted.kind, {}).get(wanted)
        return _manifest(entry) if entry else None

    def parent(self, key: Key) -> Manifest | None:
        """A copy of the resource of that key, or None."""
        return self.get(Ref(key.kind, key.namespace, key.name))

    def children(self, kind: str, owner: Key) -> list[Manifest]:
        """Copies of the owner's objects of a kind, by name. Ownership is by label: check the controller UID too."""
        objects = self._objects.get(kind, {})
        return [_manifest(objects[each]) for each in sorted(self._owned.get((kind, owner), ()))]

    def objects(self, kind: str) -> list[Manifest]:
        """Copies of all objects of a kind, by namespace and name."""
        found = self._objects.get(kind, {})
        return [_manifest(found[each]) for each in sorted(found)]

    def resources(self) -> list[Key]:
        """Keys of all resources of both kinds."""
        return [
            Key(each.kind, each.namespace, each.name)
            for kind in (MODEL, PIPELINE)
            for each in self._objects.get(kind, {})
            if each.namespace
        ]

    def users(self, model: Key) -> frozenset[Key]:
        """Pipelines that refer to a model: what becomes of it concerns them."""
        return frozenset(self._users.get(Ref(MODEL, model.namespace, model.name), ()))

    def drifted(self, wanted: Ref) -> bool:
        """Whether someone else has changed the object since this process wrote it. False where it never did."""
        entry = self._objects.get(wanted.kind, {}).get(wanted)
        return entry is not None and entry.ours is not None and entry.ours != _content(_manifest(entry))

    def wrote(self, manifest: Mapping[str, Any]) -> None:
        """The server's answer to our own write. Call it with every answer, before the next pass can begin.

        The watch's event of that write will be no news: whoever wrote knows, and decides when to look again.
        """
        self._put(manifest, ours=_content(project(manifest)))

    def told(self, manifest: Mapping[str, Any]) -> bool:
        """What a watch told. True where it matters to a reconciler: something new in the fields we keep."""
        return self._put(manifest)

    def removed(self, manifest: Mapping[str, Any]) -> bool:
        """A watch told of the deletion. True where the object was here."""
        return self._remove(ref(manifest), _version(manifest["metadata"]))

    def heal(self, kind: str, listing: Listing, namespace: str | None = None) -> Healed:
        """Take over a complete listing of a kind (of one namespace, if given): missed changes, and missed deletions.

        Objects newer than the listing stay as they are.
        """
        at = _number(listing.resource_version)
        listed = {ref(each) for each in listing.items}
        changed = tuple(ref(each) for each in listing.items if self._put(each))
        stale = [
            each
            for each, entry in self._objects.get(kind, {}).items()
            if each not in listed and entry.version <= at and namespace in (None, each.namespace)
        ]
        owners = {entry.owner for each in (*changed, *stale) if (entry := self._objects[kind].get(each))}
        removed = tuple(each for each in stale if self._remove(each, at))
        return Healed(changed, removed, frozenset(owner for owner in owners if owner))

    def owners_on(self, node: str) -> frozenset[Key]:
        """Owners of the pods on a node."""
        found = set()
        for entry in self._objects.get("Pod", {}).values():
            if entry.owner and _manifest(entry).get("spec", {}).get("nodeName") == node:
                found.add(entry.owner)
        return frozenset(found)

    def _put(self, manifest: Mapping[str, Any], ours: bytes | None = None) -> bool:
        identity = ref(manifest)
        version = _version(manifest["metadata"])
        if self._tombstones.get(identity, -1) >= version:
            return False
        objects = self._objects.setdefault(identity.kind, {})
        known = objects.get(identity)
        if known is not None and known.version > version:
            return False
        if known is not None and known.version == version > 0 and ours is None:
            return False  # nearly all that a resync lists: not worth looking into
        body = orjson.dumps(project(manifest), option=orjson.OPT_SORT_KEYS)
        entry = _Entry(body, version, owner_key(manifest), ours or (known.ours if known is not None else None))
        if known is not None:
            self._disown(identity, known)
        objects[identity] = entry
        for model in _models_used(manifest):
            self._users.setdefault(model, set()).add(Key(PIPELINE, str(identity.namespace), identity.name))
        if entry.owner is not None:
            self._owned.setdefault((identity.kind, entry.owner), set()).add(identity)
        self._metrics.cached(identity.kind, len(objects))
        return known is None or known.body != body

    def _remove(self, identity: Ref, version: int) -> bool:
        objects = self._objects.get(identity.kind, {})
        known = objects.get(identity)
        if known is not None and known.version > version:
            return False
        self._tombstones[identity] = version
        self._tombstones.move_to_end(identity)
        if len(self._tombstones) > _MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        if known is None:
            return False
        del objects[identity]
        self._disown(identity, known)
        self._metrics.cached(identity.kind, len(objects))
        return True

    def _disown(self, identity: Ref, entry: _Entry) -> None:
        if identity.kind == PIPELINE:
            for model in _models_used(_manifest(entry)):
                users = self._users.get(model, set())
                users.discard(Key(PIPELINE, str(identity.namespace), identity.name))
                if not users:
                    self._users.pop(model, None)
        if entry.owner is None:
            return
        owned = self._owned.get((identity.kind, entry.owner))
        if owned is not None:
            owned.discard(identity)
            if not owned:
                del self._owned[(identity.kind, entry.owner)]


def owner_key(manifest: Mapping[str, Any]) -> Key | None:
    """The resource to reconcile for an object: itself where it is one, else the one its labels name, else None."""
    metadata = manifest["metadata"]
    namespace = metadata.get("namespace", "")
    if manifest["kind"] in (MODEL, PIPELINE):
        return Key(manifest["kind"], namespace, metadata["name"])
    labels = metadata.get("labels") or {}
    for kind, label in ((PIPELINE, LABEL_PIPELINE), (MODEL, LABEL_MODEL)):
        if labels.get(label):
            return Key(kind, namespace, labels[label])
    return None


def _content(projected: Mapping[str, Any]) -> bytes:
    """What a writer decides about an object: neither its status nor what the server keeps about it."""
    metadata = {name: projected["metadata"].get(name) for name in ("labels", "annotations", "ownerReferences")}
    decided = {name: value for name, value in projected.items() if name not in ("metadata", "status")}
    return hashlib.sha256(orjson.dumps([metadata, decided], option=orjson.OPT_SORT_KEYS)).digest()


def _models_used(manifest: Mapping[str, Any]) -> Iterator[Ref]:
    """The InferenceModels that a pipeline refers to; nothing for other kinds, or for what is no valid pipeline."""
    if manifest["kind"] != PIPELINE:
        return
    for member in (manifest.get("spec") or {}).get("models") or ():
        name = (member.get("modelRef") or {}).get("name")
        if name:
            yield Ref(MODEL, manifest["metadata"]["namespace"], str(name))


def _manifest(entry: _Entry) -> Manifest:
    found: Manifest = orjson.loads(entry.body)
    found["metadata"]["resourceVersion"] = str(entry.version)
    return found


def _version(metadata: Mapping[str, Any]) -> int:
    return _number(str(metadata.get("resourceVersion", "")))


def _number(resource_version: str) -> int:
    """The API server orders versions as numbers (KEP-5504); one that is none counts as oldest."""
    return int(resource_version) if resource_version.isdigit() else 0
