"""Sentences to token ids: the tokenizer of all-MiniLM-L6-v2, run by the engine Python."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as WordPieces

from podium import Model, ModelContext

LENGTH_STEP = 32
"""Sentences are padded to the next multiple, so that requests of similar length share a batch of the encoder."""


class Tokenizer(Model):
    """`text` `[batch] bytes` → `input_ids`, `attention_mask` `[batch, seq] int64`, padded with zeros."""

    def load(self, ctx: ModelContext) -> None:
        """Reads tokenizer.json; `parameters.maxTokens` cuts longer sentences (default 128)."""
        self.pieces = WordPieces.from_file(str(ctx.artifact_dir / "tokenizer.json"))
        self.pieces.enable_truncation(int(ctx.parameters.get("maxTokens", 128)))
        self.pieces.enable_padding(pad_to_multiple_of=LENGTH_STEP)

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Tokenizes all sentences of a batch at once."""
        sentences = [bytes(text).decode("utf-8", errors="replace") for text in inputs["text"].reshape(-1)]
        encoded = self.pieces.encode_batch(sentences)
        return {
            "input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
            "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64),
        }
