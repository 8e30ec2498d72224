"""The one GPU that a worker sees."""

from collections.abc import MutableMapping

from podium_crds.assignment import EngineKind

VISIBLE = "CUDA_VISIBLE_DEVICES"


def see_only(device: str, kind: EngineKind, environ: MutableMapping[str, str]) -> str:
    """Hides all other GPUs from this process and its children; gives the device as the process names it from then on.

    To be called before a CUDA library is. vLLM hides them itself: one of its engines may want several.
    """
    if not device.startswith("cuda:") or kind is EngineKind.VLLM:
        return device
    number = int(device.removeprefix("cuda:"))
    given = [name for name in environ.get(VISIBLE, "").split(",") if name]
    environ[VISIBLE] = given[number] if number < len(given) else str(number)
    return "cuda:0"
