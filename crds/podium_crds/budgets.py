"""What members want of their pod together: parts of GPUs, and the memory that referenced models reserve. Pure."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from podium_crds.errors import Problem
from podium_crds.gpus import GpuDemand, packed, told
from podium_crds.model import ModelDefinition
from podium_crds.serving import GPU_RESOURCE, Resources, quantity_value

Definitions = Mapping[str, ModelDefinition]
"""Members that are loaded in the pod, by name."""
MEMORY = "memory"


def gpu_demands(members: Definitions) -> dict[str, GpuDemand]:
    """Of the members that name a part; empty: the pod's GPUs are not shared by parts."""
    return {
        name: GpuDemand(Fraction(model.gpu_fraction), model.instances)
        for name, model in members.items()
        if model.gpu_fraction is not None
    }


def gpu_places(members: Definitions, resources: Resources) -> dict[str, tuple[int, ...]]:
    """GPU of each instance of the members that name a part. `gpu_problems` found none."""
    return packed(gpu_demands(members), resources.gpus) or {}


def gpu_problems(members: Definitions, resources: Resources, path: str) -> list[Problem]:
    """Why the parts do not fit the pod's GPUs, naming every member that wants one."""
    demands = gpu_demands(members)
    if not demands:
        return []
    whole = [name for name, model in members.items() if name not in demands and _must_have(model)]
    problems = [
        Problem(
            path,
            f"{name} has device: Cuda and no gpuFraction, beside members that share the pod's GPUs by parts "
            f"({told(demands)}): give it a gpuFraction, too",
        )
        for name in whole
    ]
    if packed(demands, resources.gpus) is None:
        wanted = sum((demand.total for demand in demands.values()), Fraction(0))
        problems.append(
            Problem(
                path,
                f"the members' parts of GPUs ({told(demands)}; {float(wanted):g} together) do not fit on the pod's "
                f"{resources.gpus}: raise resources.limits.{GPU_RESOURCE}, or lower gpuFraction or instances",
            )
        )
    return problems


def memory_problems(reserved: Sequence[tuple[str, Resources]], pod: Resources, path: str) -> list[Problem]:
    """Why what the referenced models reserve for themselves does not fit the memory that all of them get here.

    `reserved`: member → resources of its own InferenceModel. Members that reserve nothing there count nothing here.
    """
    limit = pod.limits.get(MEMORY)
    wanted = {name: own.requests[MEMORY] for name, own in reserved if MEMORY in own.requests}
    if limit is None or sum(map(quantity_value, wanted.values()), Fraction(0)) <= quantity_value(limit):
        return []
    each = ", ".join(f"{name} {amount}" for name, amount in sorted(wanted.items()))
    return [
        Problem(
            path,
            f"the memory that the referenced models reserve for their own pods ({each}) is together more than the "
            f"{limit} of this pod: raise resources.limits.memory, or lower resources.requests.memory of those models",
        )
    ]


def _must_have(model: ModelDefinition) -> bool:
    return getattr(model.options, "device", "Auto") == "Cuda"
