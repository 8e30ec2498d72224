"""The Onnx engine: ONNX Runtime runs a graph from a file. The only place that imports onnxruntime.

The graph's own inputs and outputs are held against the declared ones at load. Weights in files of their own are mapped
by ONNX Runtime, which refuses those outside the graph's directory.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium.engines.base import Arrays, ContractLoadError, EngineBatch, LoadError
from podium.errors import ModelError
from podium.ipc.tensor import Tensor
from podium.sdk.model import ModelContext
from podium_crds.assignment import EngineSpec
from podium_crds.tensors import DType, TensorSpec

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Its Linux builds report models and machines to their vendor by default, decided when the library is imported.

ONNX_DTYPES = {
    "tensor(bool)": DType.BOOL,
    "tensor(uint8)": DType.UINT8,
    "tensor(uint16)": DType.UINT16,
    "tensor(uint32)": DType.UINT32,
    "tensor(uint64)": DType.UINT64,
    "tensor(int8)": DType.INT8,
    "tensor(int16)": DType.INT16,
    "tensor(int32)": DType.INT32,
    "tensor(int64)": DType.INT64,
    "tensor(float16)": DType.FP16,
    "tensor(float)": DType.FP32,
    "tensor(double)": DType.FP64,
    "tensor(string)": DType.BYTES,
}
LEVELS = {
    "Disabled": "ORT_DISABLE_ALL",
    "Basic": "ORT_ENABLE_BASIC",
    "Extended": "ORT_ENABLE_EXTENDED",
    "All": "ORT_ENABLE_ALL",
}
ERRORS_ONLY = 3
"""ONNX Runtime's own log level."""


class OnnxEngine:
    """Runs one session."""

    def __init__(
        self,
        spec: EngineSpec,
        context: ModelContext,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._spec = spec
        self._context = context
        self._declared = (inputs, outputs)
        self._session: Any = None
        self._wanted: list[str] | None = None
        """Outputs to compute; None: all of the graph's."""

    def load(self) -> None:
        """Reads the graph and holds it against the contract. Raises LoadError, ContractLoadError."""
        import onnxruntime

        root = self._context.artifact_dir.resolve()
        file = (root / (self._spec.file or "")).resolve()
        if root not in file.parents or not file.is_file():
            found = sorted(str(path.relative_to(root)) for path in root.rglob("*.onnx"))[:8]
            raise LoadError(
                f"the artifact has no file {self._spec.file!r}"
                + (f"; it has {', '.join(found)}" if found else "; it has no .onnx file")
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), self._options(onnxruntime), providers=self._providers(onnxruntime)
            )
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"ONNX Runtime cannot load {self._spec.file}: {_said(error)}") from error
        self._check_contract()

    def warm_up(self) -> None:
        """Nothing: the first batch decides the shapes."""

    def infer(self, batch: EngineBatch) -> Arrays:
        """One run of the session. Raises ModelError."""
        feeds = {name: _fed(name, tensor) for name, tensor in batch.inputs.items()}
        try:
            values = self._session.run(self._wanted, feeds)
        except Exception as error:
            raise ModelError(f"ONNX Runtime: {_said(error)}") from error
        names = self._wanted or [output.name for output in self._session.get_outputs()]
        return {name: _taken(name, value) for name, value in zip(names, values, strict=True)}

    def unload(self) -> None:
        """Drops the session."""
        self._session = None

    def _options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._spec.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        level = LEVELS[self._spec.optimization or "All"]
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spec.spinning else "0")
        return options

    def _providers(self, onnxruntime: Any) -> list[Any]:
        if self._context.device == "cpu":
            return ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise LoadError(
                f"the model is to run on {self._context.device}, and the onnxruntime of this image has no CUDA: "
                "use an image with onnxruntime-gpu, or set onnx.device: Cpu"
            )
        device = {"device_id": int(self._context.device.partition(":")[2] or 0)}
        return [("CUDAExecutionProvider", device), "CPUExecutionProvider"]

    def _check_contract(self) -> None:
        inputs, outputs = self._declared
        graph_inputs, graph_outputs = self._session.get_inputs(), self._session.get_outputs()
        if inputs:
            problems = input_mismatches(inputs, graph_inputs)
            if problems:
                raise ContractLoadError(_both("inputs", problems, inputs, graph_inputs))
        if outputs:
            problems = output_mismatches(outputs, graph_outputs)
            if problems:
                raise ContractLoadError(_both("outputs", problems, outputs, graph_outputs))
            produced = {node.name for node in graph_outputs}
            self._wanted = [spec.name for spec in outputs if spec.name in produced] or None


def input_mismatches(declared: Sequence[TensorSpec], graph: Sequence[Any]) -> list[str]:
    """Why what the declaration lets through would not fit the graph."""
    nodes = {node.name: node for node in graph}
    specs = {spec.name: spec for spec in declared}
    problems = [f"the graph has no input {name!r}" for name in specs if name not in nodes]
    problems += [f"the graph's input {name!r} is not declared" for name in nodes if name not in specs]
    for name in specs.keys() & nodes.keys():
        problems += _type_problems(specs[name], nodes[name])
        if specs[name].optional:
            problems.append(f"{name!r} is declared optional, and the graph cannot do without it")
        for axis, (said, fixed) in enumerate(_dims(specs[name], nodes[name])):
            if fixed is not None and said != fixed:
                problems.append(_dim_problem(name, axis, said, fixed))
    return problems


def output_mismatches(declared: Sequence[TensorSpec], graph: Sequence[Any]) -> list[str]:
    """Why what the graph gives would not be what is declared."""
    nodes = {node.name: node for node in graph}
    problems = [
        f"the graph has no output {spec.name!r}" for spec in declared if spec.name not in nodes and not spec.optional
    ]
    for spec in declared:
        if spec.name in nodes:
            problems += _type_problems(spec, nodes[spec.name])
            for axis, (said, fixed) in enumerate(_dims(spec, nodes[spec.name])):
                if fixed is not None and said not in (-1, fixed):
                    problems.append(_dim_problem(spec.name, axis, said, fixed))
    return problems


def _type_problems(spec: TensorSpec, node: Any) -> list[str]:
    known = ONNX_DTYPES.get(node.type)
    if known is None:
        return [f"{spec.name!r} is {node.type} in the graph, which has no tensor type: cast it there"]
    problems = [] if known is spec.dtype else [f"{spec.name!r} is {known} in the graph"]
    if node.shape and len(node.shape) != len(spec.shape):
        problems.append(f"{spec.name!r} has {len(node.shape)} dimensions in the graph")
    return problems


def _dims(spec: TensorSpec, node: Any) -> list[tuple[int, int | None]]:
    """(declared, fixed in the graph or None) of each dimension, where their number agrees."""
    if len(node.shape) != len(spec.shape):
        return []
    return [
        (said, dim if isinstance(dim, int) and dim > 0 else None)
        for said, dim in zip(spec.shape, node.shape, strict=True)
    ]


def _dim_problem(name: str, axis: int, said: int, fixed: int) -> str:
    if axis == 0 and said == -1:
        return (
            f"{name!r} has exactly {fixed} rows in the graph: export it with a dynamic first dimension, or declare "
            f"{fixed} and set batching.maxBatchSize: {fixed}"
        )
    return f"dimension {axis} of {name!r} is {fixed} in the graph"


def _both(what: str, problems: Sequence[str], declared: Sequence[TensorSpec], graph: Sequence[Any]) -> str:
    ours = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in declared)
    theirs = ", ".join(
        f"{node.name} {ONNX_DTYPES.get(node.type, node.type)} "
        f"{[dim if isinstance(dim, int) else -1 for dim in node.shape]}"
        for node in graph
    )
    return f"the graph's {what} are not what is declared: {'; '.join(problems)}. Declared: {ours}. Graph: {theirs}"


def _fed(name: str, tensor: Tensor) -> NDArray[Any]:
    array = tensor.array()
    if tensor.dtype is not DType.BYTES:
        return array
    text = np.empty(array.shape, dtype=object)
    try:
        text.reshape(-1)[:] = [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise ModelError(f"input {name!r} is no UTF-8 text, which ONNX strings must be: {error}") from error
    return text


def _taken(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise ModelError(f"output {name!r} is {type(value).__name__}, expected a tensor")
    return value


def _said(error: Exception) -> str:
    """ONNX Runtime's own message, in one line."""
    return " ".join(str(error).split())
