"""Which fields of a watched object the operator keeps. PURE.

A Node's heartbeat or a kubelet's probe time is left out, so that it wakes nobody.
"""

from collections.abc import Callable, Mapping
from typing import Any

Manifest = dict[str, Any]

_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)
_NOISY_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
_POD_SPEC = ("nodeName", "terminationGracePeriodSeconds", "schedulingGates")
_POD_STATUS = ("phase", "reason", "message", "podIP", "conditions", "startTime")
_CONTAINER_STATUS = ("name", "ready", "started", "restartCount", "state", "lastState", "image", "imageID")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_ENDPOINT = ("addresses", "conditions", "targetRef", "nodeName")


def project(manifest: Mapping[str, Any]) -> Manifest:
    """The fields worth keeping, `metadata.resourceVersion` not among them. Shares nothing mutable that it changes."""
    kept: Manifest = {name: value for name, value in manifest.items() if name not in ("metadata", "managedFields")}
    kept["metadata"] = _metadata(manifest["metadata"])
    narrow = _NARROW.get(manifest["kind"])
    return narrow(kept) if narrow else kept


def _metadata(metadata: Mapping[str, Any]) -> Manifest:
    kept = _pick(metadata, _METADATA)
    annotations = {
        name: value for name, value in (metadata.get("annotations") or {}).items() if name not in _NOISY_ANNOTATIONS
    }
    if annotations:
        kept["annotations"] = annotations
    return kept


def _pod(pod: Manifest) -> Manifest:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    kept_status = _pick(status, _POD_STATUS)
    kept_status["conditions"] = [_pick(each, _CONDITION) for each in status.get("conditions") or ()]
    for group in ("containerStatuses", "initContainerStatuses"):
        if status.get(group):
            kept_status[group] = [_pick(each, _CONTAINER_STATUS) for each in status[group]]
    kept_spec = _pick(spec, _POD_SPEC)
    kept_spec["containers"] = [_pick(each, ("name", "image", "resources")) for each in spec.get("containers") or ()]
    return {**pod, "spec": kept_spec, "status": kept_status}


def _node(node: Manifest) -> Manifest:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ready = [_pick(each, _CONDITION) for each in status.get("conditions") or () if each.get("type") == "Ready"]
    metadata = {name: value for name, value in node["metadata"].items() if name != "annotations"}
    return {
        **node,
        "metadata": metadata,
        "spec": _pick(spec, ("unschedulable", "taints")),
        "status": {"allocatable": status.get("allocatable") or {}, "conditions": ready},
    }


def _endpoint_slice(found: Manifest) -> Manifest:
    kept = _pick(found, ("apiVersion", "kind", "metadata", "addressType"))
    kept["endpoints"] = [_pick(each, _ENDPOINT) for each in found.get("endpoints") or ()]
    return kept


def _pick(source: Mapping[str, Any], names: tuple[str, ...]) -> Manifest:
    return {name: source[name] for name in names if name in source}


_NARROW: Mapping[str, Callable[[Manifest], Manifest]] = {
    "Pod": _pod,
    "Node": _node,
    "EndpointSlice": _endpoint_slice,
}
