"""What Podium has vLLM do at the start of each of its processes: an entry point of the group `vllm.general_plugins`.

It is the only plug-in that `environment` lets vLLM load.
"""

NAME = "podium"


def prepare() -> None:
    """Asks the kernel for AMX where the CPU has it.

    Linux grants it to a process on request alone, and vLLM's attention uses it without: a model in bfloat16 whose
    matrices are too small for a library that asks ends its process with an illegal instruction.
    """
    import torch

    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
