"""A chain as of a model that sees and writes, with arithmetic in place of networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium import Model

Arrays = Mapping[str, NDArray[Any]]
WIDTH = 4


class TextEncoder(Model):
    """`text` `[batch] bytes` → `embedding` `[batch, 4] float32`."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Length, words, capitals, vowels."""
        texts = [bytes(item).decode() for item in inputs["text"]]
        capitals = [sum(map(str.isupper, text)) for text in texts]
        vowels = [sum(letter in "aeiou" for letter in text) for text in texts]
        rows = [(len(text), len(text.split()), *counts) for text, *counts in zip(texts, capitals, vowels, strict=True)]
        return {"embedding": np.array(rows, dtype=np.float32)}


class ImageEncoder(Model):
    """`image` `[batch, height, width, 3] uint8` → `embedding` `[batch, 4] float32`."""

    def infer(self, inputs: Arrays) -> Arrays:
        """The mean of each colour, and of all."""
        colours = inputs["image"].mean(axis=(1, 2), dtype=np.float32)
        return {"embedding": np.concatenate([colours, colours.mean(axis=1, keepdims=True)], axis=1)}


class Generate(Model):
    """Both embeddings and `max_tokens` → `tokens` `[batch, max_tokens] int64`."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Counts up from what both embeddings come to, round an alphabet."""
        begin = (inputs["text"].sum(axis=1) + inputs["image"].sum(axis=1)).astype(np.int64)
        return {"tokens": (begin[:, None] + np.arange(int(inputs["max_tokens"].max()))) % 26}


class Detokenize(Model):
    """`tokens` → `text`, a letter each."""

    def infer(self, inputs: Arrays) -> Arrays:
        """Letters from a to z."""
        rows = ["".join(chr(ord("a") + int(token)) for token in row) for row in inputs["tokens"]]
        return {"text": np.array([row.encode() for row in rows], dtype=object)}
