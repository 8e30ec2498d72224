"""Embeddings of length 1, so that their dot product is the cosine of the angle between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium import Model


class Normalise(Model):
    """`embedding` `[batch, width] float32` → the same directions, each of Euclidean length 1."""

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A row of zeros stays as it is."""
        rows = inputs["embedding"]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return {"embedding": rows / np.maximum(lengths, np.finfo(rows.dtype).tiny)}
