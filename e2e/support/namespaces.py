"""A namespace of a test's own, and what a test does in it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from . import store
from .installation import Installation
from .kubectl import Kubectl
from .models import Chain, Scaler
from .served import Served
from .store import Store
from .waiting import eventually


def create(admin: Kubectl, name: str) -> Kubectl:
    """kubectl bound to a new namespace that lets privileged pods in, for the agents."""
    labels = {"pod-security.kubernetes.io/enforce": "privileged", "podium-e2e": "true"}
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return admin.within(name)


def remove(bound: Kubectl) -> None:
    """Begin to delete the namespace. Pods end at once, for no test asks how they end from here on."""
    bound("delete", "inference,deployments", "--all", "--ignore-not-found", "--timeout=60s", timeout=90)
    bound("delete", "pods", "--all", "--force", "--grace-period=0", "--timeout=60s", timeout=90)
    bound.delete("namespace", bound.namespace, "--wait=false")


@dataclass(frozen=True, slots=True)
class Space:
    """A test's namespace."""

    kubectl: Kubectl
    installation: Installation

    def applied(self, wanted: Scaler | Chain) -> Served:
        """Apply a resource and return its handle at once."""
        manifest = wanted.manifest()
        self.kubectl.apply(manifest)
        return Served(self.kubectl, manifest["kind"].lower(), wanted.name)

    def served(self, wanted: Scaler | Chain) -> Served:
        """Apply a resource and return its handle once it is Ready and answers right."""
        handle = self.applied(wanted)
        handle.ready()
        eventually(f"the Service of {wanted.name} leads to its pods", handle.leads_somewhere, bool, timeout=10)
        value, _ = handle.answer(3)
        assert value == 3 * wanted.scale, f"3 -> {value} from {json.dumps(handle.get()['status'])[:2000]}"
        return handle

    def store(self) -> Store:
        """An artifact store in this namespace."""
        return store.start(self.kubectl, self.installation.images.runtime)
