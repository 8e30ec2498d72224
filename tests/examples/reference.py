"""The MiniLM encoder again, in numpy and float64, written from its description: what the example must equal.

BERT: Devlin et al. 2019; pooling: mean over the unmasked tokens, then length 1, as the model's card says.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]

LAYERS = 6
HEADS = 12
EPSILON = 1e-12


class Reference:
    """The published weights in float64."""

    def __init__(self, weights: Path) -> None:
        self._weights = {name: array.astype(np.float64) for name, array in load_file(weights).items()}

    def tokens(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Array:
        """Last hidden states, [batch, seq, 384]."""
        words = self._weights["embeddings.word_embeddings.weight"][input_ids]
        places = self._weights["embeddings.position_embeddings.weight"][: input_ids.shape[1]]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        states = self._norm("embeddings.LayerNorm", words + places + segment)
        for index in range(LAYERS):
            states = self._layer(f"encoder.layer.{index}", states, attention_mask)
        return states

    def sentences(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Array:
        """Mean over the unmasked tokens, of length 1, [batch, 384]."""
        states = self.tokens(input_ids, attention_mask)
        mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdims=True)
        return unit(mean)

    def _layer(self, name: str, states: Array, attention_mask: NDArray[np.int64]) -> Array:
        query, key, value = (
            self._heads(self._linear(f"{name}.attention.self.{part}", states)) for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
        scores = np.where(attention_mask[:, None, None, :] == 1, scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ value
        joined = mixed.swapaxes(1, 2).reshape(states.shape)
        attended = self._norm(
            f"{name}.attention.output.LayerNorm", self._linear(f"{name}.attention.output.dense", joined) + states
        )
        wide = self._linear(f"{name}.intermediate.dense", attended)
        active = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        return self._norm(f"{name}.output.LayerNorm", self._linear(f"{name}.output.dense", active) + attended)

    def _heads(self, states: Array) -> Array:
        batch, length, width = states.shape
        return states.reshape(batch, length, HEADS, width // HEADS).swapaxes(1, 2)

    def _linear(self, name: str, states: Array) -> Array:
        result: Array = states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _norm(self, name: str, states: Array) -> Array:
        mean = states.mean(-1, keepdims=True)
        variance = states.var(-1, keepdims=True)
        scaled = (states - mean) / np.sqrt(variance + EPSILON)
        result: Array = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def unit(rows: Array) -> Array:
    """Rows of length 1."""
    result: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result
