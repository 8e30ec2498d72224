"""Before and after an image classifier."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium import Model, ModelContext

Arrays = Mapping[str, NDArray[Any]]
SIDE = 8


class Preprocess(Model):
    """`image` `[batch, height, width, 3] uint8` → `pixels` `[batch, 3, 8, 8] float32`, from -1 to 1."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Takes the nearest pixel of an even grid."""
        image = inputs["image"]
        rows, columns = (np.arange(SIDE) * size // SIDE for size in image.shape[1:3])
        small = image[:, rows][:, :, columns].astype(np.float32) / 127.5 - 1
        return {"pixels": np.ascontiguousarray(small.transpose(0, 3, 1, 2))}


class Postprocess(Model):
    """`probabilities` `[batch, classes] float32` → `label` `[batch] bytes` and `score` `[batch] float32`."""

    def load(self, ctx: ModelContext) -> None:
        """`parameters.labels` names the classes in order."""
        self.labels = np.array([label.encode() for label in ctx.parameters["labels"]], dtype=object)

    def infer(self, inputs: Arrays) -> Arrays:
        """The most probable class of each row."""
        best = inputs["probabilities"].argmax(axis=1)
        return {"label": self.labels[best], "score": inputs["probabilities"].max(axis=1)}
