"""The kinds this operator touches, and where each lives. A static table: no discovery, no cache file on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from podium_crds.keys import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource type of the API server."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    page: int = 500
    """Objects per page of a list: fewer where one object may be large."""

    @property
    def api_version(self) -> str:
        """`group/version`, or the version alone in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of one object; of a collection without `name`; in all namespaces without `namespace`."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            if self.namespaced and namespace is None:
                raise ValueError(f"{self.name} {name} needs a namespace")
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


class Ref(NamedTuple):
    """One object by kind, namespace (None for cluster scope) and name."""

    kind: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("InferenceModel", GROUP, VERSION, "inferencemodels"),
        Kind("InferencePipeline", GROUP, VERSION, "inferencepipelines"),
        Kind("Deployment", "apps", "v1", "deployments"),
        Kind("ControllerRevision", "apps", "v1", "controllerrevisions", page=100),
        Kind("ConfigMap", "", "v1", "configmaps", page=50),
        Kind("Secret", "", "v1", "secrets"),
        Kind("Service", "", "v1", "services"),
        Kind("Pod", "", "v1", "pods"),
        Kind("Node", "", "v1", "nodes", namespaced=False),
        Kind("Namespace", "", "v1", "namespaces", namespaced=False),
        Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
        Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
        Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
        Kind("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes"),
        Kind("Lease", "coordination.k8s.io", "v1", "leases"),
        Kind("Event", "events.k8s.io", "v1", "events"),
        Kind("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False),
    )
}


def kind(name: str) -> Kind:
    """The kind of that name. Raises KeyError for one that the operator has no business with."""
    return KINDS[name]


def ref(manifest: Mapping[str, Any]) -> Ref:
    """The reference to a manifest that names its kind."""
    found = KINDS[manifest["kind"]]
    metadata = manifest["metadata"]
    return Ref(found.name, metadata.get("namespace") if found.namespaced else None, metadata["name"])
