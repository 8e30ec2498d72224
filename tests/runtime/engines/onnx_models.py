"""ONNX graphs as their authors export them."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int | str, ...]


def a_linear(
    path: Path,
    weight: NDArray[np.float32],
    *,
    rows: int | str = "batch",
    external: str | None = None,
) -> Path:
    """y = x @ weight, FP32, in `path`; with `external` the weight lies in a file of that name beside it."""
    width, out = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, out])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(graph, path, external)
    return path


def an_echo(path: Path, kind: int) -> Path:
    """y = x, of any ONNX type, one dimension."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", kind, ["n"])],
        [helper.make_tensor_value_info("y", kind, ["n"])],
    )
    save(graph, path)
    return path


def save(graph: onnx.GraphProto, path: Path, external: str | None = None) -> None:
    """As an exporter of some years ago would, so that any ONNX Runtime reads it."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)


def move_external(path: Path, location: str) -> None:
    """Has the graph look for its weight elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
