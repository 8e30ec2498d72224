"""Writes artifact/model.onnx beside this file: four measures of a flower -> the probabilities of three kinds.

    python examples/onnx/prepare.py && podium serve -f examples/onnx/onnx.yaml

Needs the package onnx. The weights are those of a small logistic regression, written out.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.array([[-0.4, 0.5, -0.1], [0.9, -0.2, -0.7], [-2.3, -0.2, 2.5], [-1.0, -0.9, 1.9]], np.float32)
BIAS = np.array([9.5, 2.1, -11.6], np.float32)


def main(folder: Path = Path(__file__).parent) -> Path:
    """Returns the file it wrote in `folder`/artifact."""
    nodes = [
        helper.make_node("Gemm", ["measures", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "flowers",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(BIAS, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8  # that of opset 17: ONNX Runtime refuses what is newer than itself
    onnx.checker.check_model(model)
    (folder / "artifact").mkdir(exist_ok=True)
    onnx.save(model, folder / "artifact" / "model.onnx")
    return folder / "artifact" / "model.onnx"


if __name__ == "__main__":
    print(f"written: {main()}")
