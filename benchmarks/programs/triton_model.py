"""A model of Triton's Python backend: y = 2x, one concatenation per batch."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """Called by the backend's stub process."""

    def execute(self, requests: Any) -> Any:
        """A batch."""
        arrays = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        y = np.concatenate(arrays) * 2
        answers, row = [], 0
        for array in arrays:
            tensor = pb_utils.Tensor("y", y[row : row + len(array)])
            answers.append(pb_utils.InferenceResponse([tensor]))
            row += len(array)
        return answers
