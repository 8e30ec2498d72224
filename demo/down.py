"""Removes what `up` installed; the cluster stays."""

from e2e.clusters.select import select

from demo import release
from demo.progress import Progress, detail
from demo.target import NAMESPACE, Target

_KINDS = ("inferencemodels.podium.dev", "inferencepipelines.podium.dev")


def down() -> None:
    """Does nothing where nothing is left. Raises DemoError, or ClusterError where no cluster answers."""
    progress = Progress(3)
    target = Target(select())
    with progress.step(f"namespace {NAMESPACE}: model, pipeline, store, client"):
        _remove_namespace(target)
    with progress.step(f"the Helm release {release.RELEASE} and namespace {release.SYSTEM}"):
        release.remove(target)
    with progress.step("the custom resource definitions"):
        _remove_crds(target)


def _remove_namespace(target: Target) -> None:
    """Pods first: a namespace that still has some is looked at again only after half their grace period."""
    if target.find("namespace", NAMESPACE) is None:
        return
    served = [kind for kind in _KINDS if target.find("customresourcedefinitions", kind)]
    for kinds in (*served, "deployments"):
        target.kubectl("delete", kinds, "--all", timeout=60)
    target.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=120s", timeout=135)
    target.kubectl("delete", "namespace", NAMESPACE, timeout=180)


def _remove_crds(target: Target) -> None:
    for kind in _KINDS:
        if target.find("customresourcedefinitions", kind) is None:
            continue
        left = target.kubectl("get", kind, "--all-namespaces", "--output=name").split()
        if left:
            detail(f"{kind} stays: {len(left)} of them are still in the cluster")
        else:
            target.kubectl("delete", "customresourcedefinition", kind, timeout=90)
            detail(f"{kind} removed")
