"""Does in the fork server, once, what every worker would otherwise do first and privately.

Lazy imports, caches and first-use initialisation land in pages that all workers then share. Nothing here may start a
thread: the fork server asserts it afterwards.
"""

import os
from pathlib import Path

import numpy as np

from podium.ipc.tensor import Tensor
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member
from podium_crds.tensors import DType, TensorSpec

SMALL = 8


def rehearse_python() -> None:
    """Reads a member as a worker does, and handles a small tensor."""
    np.random.seed()  # numpy 2 imports its generators at the first use: 6 MiB
    spec = TensorSpec(name="x", dtype=DType.FP32, shape=(-1, 4))
    engine = EngineSpec(kind=EngineKind.PYTHON, entrypoint="model:Model")
    member = Member(
        name="m", load_hash="h", version="1", artifact=Artifact(), engine=engine, inputs=(spec,), outputs=(spec,)
    )
    Member.model_validate_json(member.model_dump_json(by_alias=True, exclude_none=True))
    Tensor.from_array(np.ones((1, 4), np.float32) * 2).array()


def rehearse_torch() -> None:
    """Builds a module on `meta`, gives it mapped weights and runs it, all of a few bytes."""
    import torch
    from safetensors.torch import save

    from podium.engines.torch_weights import assign_mapped

    rehearse_python()
    torch.set_num_threads(1)
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(SMALL, SMALL), torch.nn.ReLU(), torch.nn.LayerNorm(SMALL))
    weights = {name: torch.ones(tensor.shape) for name, tensor in module.state_dict().items()}
    fd = os.memfd_create("podium-rehearsal", os.MFD_CLOEXEC)
    try:
        os.write(fd, save(weights))
        assign_mapped(module, Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)
    module.eval().requires_grad_(requires_grad=False).to(torch.device("cpu"))
    with torch.inference_mode():
        for rows in (1, 4):
            batch = torch.frombuffer(bytearray(rows * SMALL * 4), dtype=torch.float32).reshape(rows, SMALL)
            module(batch).cpu().contiguous().numpy()


REHEARSALS = {EngineKind.PYTHON.value: rehearse_python, EngineKind.TORCH.value: rehearse_torch}
