"""Which cluster this machine gets. Never a silent fallback: what was asked for, or an error that says why not."""

from __future__ import annotations

import os

from .base import Cluster, ClusterError
from .built import BuiltCluster, unsupported
from .existing import ExistingCluster
from .kind import KindCluster, engine

_CHOICE = "PODIUM_CLUSTER"


def select() -> Cluster:
    """The cluster named by PODIUM_CLUSTER, else kind where a container engine answers, else the built one."""
    chosen = os.environ.get(_CHOICE, "")
    if chosen == "existing":
        return ExistingCluster()
    if chosen == "kind":
        found = engine()
        if found is None:
            raise ClusterError(f"{_CHOICE}=kind, but neither docker nor podman answers here")
        return KindCluster(found)
    if chosen == "built":
        return BuiltCluster()
    if chosen:
        raise ClusterError(f"{_CHOICE}={chosen}: must be one of existing, kind, built")
    found = engine()
    if found is not None:
        return KindCluster(found)
    reason = unsupported()
    if reason is None:
        return BuiltCluster()
    raise ClusterError(
        f"No cluster can be had here: no container engine (docker or podman) answers, so there is no kind; {reason}. "
        f"Either start a container engine, or name a cluster with {_CHOICE}=existing and PODIUM_KUBECONFIG=FILE, "
        "or go without a cluster: podium serve -f examples/<file>.yaml"
    )
