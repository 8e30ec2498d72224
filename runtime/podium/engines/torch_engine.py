"""The Torch engine: a builder function in the artifact returns the module, or it was exported to a file.

Weights in `model.safetensors` are mapped and assigned where the builder returns a module on the `meta` device, and so
are those of an exported program: their pages are shared by all instances through the page cache. Any other module has
loaded itself.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from podium.engines.base import EngineBatch, LoadError, lent_to, resolve_entrypoint, wrapped
from podium.engines.torch_files import load_exported, load_torch_script
from podium.engines.torch_weights import WEIGHTS, assign_mapped
from podium.errors import ModelError
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext
from podium_crds.assignment import EngineSpec
from podium_crds.tensors import DType, TensorSpec

TORCH_DTYPES: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool,
    DType.UINT8: torch.uint8,
    DType.UINT16: torch.uint16,
    DType.UINT32: torch.uint32,
    DType.UINT64: torch.uint64,
    DType.INT8: torch.int8,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.FP16: torch.float16,
    DType.FP32: torch.float32,
    DType.FP64: torch.float64,
}
COMPUTE_DTYPES = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}


class TorchEngine:
    """Runs one module under inference mode."""

    def __init__(
        self,
        spec: EngineSpec,
        context: ModelContext,
        outputs: tuple[TensorSpec, ...],
        inputs: tuple[TensorSpec, ...] = (),
    ) -> None:
        self._spec = spec
        self._context = context
        self._inputs = inputs
        self._outputs = outputs
        self._device = torch.device(context.device)
        self._dtype = COMPUTE_DTYPES[spec.dtype] if spec.dtype else None
        self._forward: Callable[..., Any] | None = None

    def load(self) -> None:
        """Builds or reads the module, moves it to its device and compiles it. Raises LoadError, ContractLoadError."""
        torch.set_num_threads(self._spec.threads)
        if self._context.gpu_fraction is not None:
            torch.cuda.set_per_process_memory_fraction(self._context.gpu_fraction, self._device)
        if self._spec.file is None:
            forward = self._built()
        elif self._spec.format == "TorchScript":
            forward = self._placed(load_torch_script(self._context.artifact_dir, self._spec.file, self._device))
        else:
            forward = load_exported(self._context.artifact_dir, self._spec.file, self._device, self._inputs)
        self._forward = torch.compile(forward) if self._spec.compile else forward

    def warm_up(self) -> None:
        """Nothing: the first batch decides the shapes."""

    def infer(self, batch: EngineBatch) -> Mapping[str, NDArray[Any]]:
        """Calls the module with tensors by input name. Raises ModelError."""
        assert self._forward is not None
        with torch.inference_mode():
            try:
                inputs = {name: self._input(name, tensor) for name, tensor in batch.inputs.items()}
                with lent_to(self._context, batch):
                    answer = self._forward(**inputs)
            except ModelError:
                raise
            except Exception as error:
                raise wrapped(error, "forward raised") from error
            return {name: self._output(name, value) for name, value in self._named(answer).items()}

    def unload(self) -> None:
        """Drops the module and what the device's allocator caches."""
        self._forward = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _built(self) -> Callable[..., Any]:
        """What the builder returns, with mapped weights where it left the module empty."""
        builder = resolve_entrypoint(self._spec.entrypoint, self._context.artifact_dir)
        if not callable(builder):
            raise LoadError(f"entrypoint {self._spec.entrypoint!r} is {type(builder).__name__}, expected a function")
        built: Callable[..., Any] = builder(self._context)
        if not callable(built):
            raise LoadError(f"{self._spec.entrypoint} returned {type(built).__name__}, expected a torch.nn.Module")
        return self._placed(built) if isinstance(built, torch.nn.Module) else built

    def _placed(self, module: torch.nn.Module) -> torch.nn.Module:
        weights = self._context.artifact_dir / WEIGHTS
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            if not weights.is_file():
                raise LoadError(f"the module is on the meta device, and the artifact has no {WEIGHTS}")
            assign_mapped(module, weights)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(requires_grad=False)
        if self._dtype is not None and any(
            p.is_floating_point() and p.dtype != self._dtype for p in module.parameters()
        ):
            module.to(self._dtype)
        return module.to(self._device)

    def _input(self, name: str, tensor: Tensor) -> torch.Tensor:
        if tensor.dtype is DType.BYTES:
            raise ModelError(f"input {name!r} is BYTES; a Torch model takes numbers, use a Python model before it")
        value = borrowed(tensor).to(self._device, non_blocking=True)
        return value.to(self._dtype) if self._dtype is not None and value.is_floating_point() else value

    def _named(self, answer: object) -> Mapping[str, torch.Tensor]:
        if isinstance(answer, torch.Tensor):
            answer = (answer,)
        if isinstance(answer, (tuple, list)):
            if len(answer) != len(self._outputs):
                raise ModelError(f"forward returned {len(answer)} tensors, {len(self._outputs)} outputs are declared")
            answer = {spec.name: value for spec, value in zip(self._outputs, answer, strict=True)}
        if not isinstance(answer, Mapping):
            raise ModelError(
                f"forward returned {type(answer).__name__}, expected a dictionary of tensors by output name"
            )
        return answer

    def _output(self, name: str, value: object) -> NDArray[Any]:
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"output {name!r} is {type(value).__name__}, expected a tensor")
        declared = next((spec.dtype for spec in self._outputs if spec.name == name), None)
        if value.is_floating_point():
            wanted = TORCH_DTYPES.get(declared) if declared else None
            if wanted is not None and wanted.is_floating_point:
                value = value.to(wanted)
            elif value.dtype == torch.bfloat16:
                value = value.to(torch.float32)
        array: NDArray[Any] = value.cpu().contiguous().numpy()  # type: ignore[attr-defined]
        return array


def borrowed(tensor: Tensor) -> torch.Tensor:
    """A tensor over the same bytes, without a copy; small inline payloads are copied.

    The arena's pages are mapped without PROT_WRITE, which torch cannot express: an in-place operation on an input ends
    the process with SIGSEGV and a Python traceback in the pod's log. Use `x = x / 255`, not `x.div_(255)`.
    """
    dtype = TORCH_DTYPES[tensor.dtype]
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    window = tensor.data.obj if isinstance(tensor.data.obj, ctypes.Array) else bytearray(tensor.data)
    return torch.frombuffer(window, dtype=dtype).reshape(tensor.shape)
