"""Which objects the operator watches and caches: its two kinds, their children by one label, and nodes. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from podium_crds.keys import LABEL_MANAGED_BY, MANAGED_BY
from podium_operator.kube.kinds import KINDS, Kind

OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Watched:
    """One kind, and which of its objects."""

    kind: Kind
    label_selector: str = ""
    optional: bool = False
    """Go without where the operator may not list it."""


WATCHED: Sequence[Watched] = (
    Watched(KINDS["InferenceModel"]),
    Watched(KINDS["InferencePipeline"]),
    Watched(KINDS["Deployment"], OURS),
    Watched(KINDS["ControllerRevision"], OURS),
    Watched(KINDS["ConfigMap"], OURS),
    Watched(KINDS["Secret"], OURS),
    Watched(KINDS["Service"], OURS),
    Watched(KINDS["PodDisruptionBudget"], OURS),
    Watched(KINDS["Pod"], OURS),
    Watched(KINDS["EndpointSlice"], OURS),
    Watched(KINDS["Node"], optional=True),
)
