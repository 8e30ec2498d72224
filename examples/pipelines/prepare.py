"""Writes artifact/model.onnx beside this file: the mean of each colour of an image, as probabilities. Needs onnx."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def main(folder: Path = Path(__file__).parent) -> Path:
    """Returns the file it wrote in `folder`/artifact."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 3, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(2 * np.eye(3, dtype=np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8  # that of opset 17: ONNX Runtime refuses what is newer than itself
    onnx.checker.check_model(model)
    (folder / "artifact").mkdir(exist_ok=True)
    onnx.save(model, folder / "artifact" / "model.onnx")
    return folder / "artifact" / "model.onnx"


if __name__ == "__main__":
    print(f"written: {main()}")
