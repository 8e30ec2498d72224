"""Small stand-ins for models of text: what they answer is plain to see, so that the graphs can be followed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium import Model, ModelContext

Arrays = Mapping[str, NDArray[Any]]
MOODS = {"good": 1.0, "fine": 0.5, "bad": -1.0}


def texts(array: NDArray[Any]) -> list[str]:
    """Elements of a BYTES tensor as text."""
    return [bytes(item).decode("utf-8", "replace") for item in array.reshape(-1)]


def packed(items: list[str]) -> NDArray[Any]:
    """Text as a BYTES tensor."""
    return np.array([item.encode() for item in items], dtype=object)


class Quick(Model):
    """Knows three words. `text` → `label`, and `sure`: whether it knew one in every text of the request."""

    def infer_batch(self, requests: list[Arrays]) -> list[Arrays]:
        """Request by request: whether it is sure is one value for each."""
        return [self._one(texts(request["text"])) for request in requests]

    def _one(self, sentences: list[str]) -> Arrays:
        known = [[MOODS[word] for word in text.split() if word in MOODS] for text in sentences]
        labels = ["good" if sum(moods) > 0 else "bad" for moods in known]
        return {"label": packed(labels), "sure": np.full(len(sentences), all(known))}


class Thorough(Model):
    """Reads what nobody else does: an exclamation mark is good, everything else is bad."""

    def infer(self, inputs: Arrays) -> Arrays:
        """`text` → `label`."""
        return {"label": packed(["good" if text.endswith("!") else "bad" for text in texts(inputs["text"])])}


class Scorer(Model):
    """`text` → `score`: how often a word of `parameters.words` occurs."""

    def load(self, ctx: ModelContext) -> None:
        """Takes the words."""
        self.words = set(ctx.parameters["words"])

    def infer(self, inputs: Arrays) -> Arrays:
        """Counts."""
        counts = [sum(word in self.words for word in text.split()) for text in texts(inputs["text"])]
        return {"score": np.array(counts, dtype=np.float32)}


class Mean(Model):
    """`first`, `second` and `weight` of the first, from 0 to 1 → `score`."""

    def infer(self, inputs: Arrays) -> Arrays:
        """The weighted mean."""
        weight = inputs["weight"]
        return {"score": inputs["first"] * weight + inputs["second"] * (1 - weight)}
