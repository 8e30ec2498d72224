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
        target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=180)
    with progress.step(f"the Helm release {release.RELEASE} and namespace {release.SYSTEM}"):
        release.remove(target)
    with progress.step("the custom resource definitions"):
        _remove_crds(target)


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
