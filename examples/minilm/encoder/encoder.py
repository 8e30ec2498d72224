"""The sentence encoder all-MiniLM-L6-v2 in plain torch: a BERT encoder and a pooling over its tokens.

`build` makes the module without weights; the engine assigns it those of model.safetensors. Submodules are named as the
tensors of that file are (`encoder.layer.0.attention.self.query.weight`), so that no name is translated.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from podium import ModelContext


class Embeddings(nn.Module):
    """Token ids `[batch, seq] int64` → `[batch, seq, hidden]`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], hidden)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], hidden)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        self.register_buffer("position_ids", torch.arange(config["max_position_embeddings"])[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = self.position_ids[:, : input_ids.shape[1]]
        words = self.word_embeddings(input_ids)
        # One sentence is one segment: the first token type throughout.
        total = words + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(total)


class SelfAttention(nn.Module):
    """Multi-head attention in which masked tokens are not looked at."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        query, key, value = (self._split(layer(states)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Residual(nn.Module):
    """Projects and adds to what came before; the norm comes after, as BERT has it."""

    def __init__(self, config: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(states) + before)


class Layer(nn.Module):
    """Attention, then a feed-forward network."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config, hidden)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, wide)})
        self.output = Residual(config, wide)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        attended = self.attention["output"](self.attention["self"](states, visible), states)
        return self.output(functional.gelu(self.intermediate["dense"](attended)), attended)


class SentenceEncoder(nn.Module):
    """`input_ids`, `attention_mask` `[batch, seq] int64` → `embedding` `[batch, hidden] float32`, not normalised.

    `first_token`: the vector of the first token stands for the sentence; else the mean over the tokens that the mask
    shows, which the model was trained for.
    """

    def __init__(self, config: Mapping[str, Any], *, first_token: bool) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))}
        )
        # In the file, not in the answer: the head of BERT's next-sentence task.
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config["hidden_size"], config["hidden_size"])})
        self.first_token = first_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        visible = attention_mask[:, None, None, :].bool()
        states = self.embeddings(input_ids)
        for layer in self.encoder["layer"]:
            states = layer(states, visible)
        return {"embedding": self._pool(states, attention_mask).float()}

    def _pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        if self.first_token:
            return states[:, 0]
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def build(ctx: ModelContext) -> SentenceEncoder:
    """The module without its weights, as config.json and 1_Pooling/config.json of the artifact describe it."""
    config = json.loads((ctx.artifact_dir / "config.json").read_text())
    pooling = json.loads((ctx.artifact_dir / "1_Pooling" / "config.json").read_text())
    first_token, mean = pooling["pooling_mode_cls_token"], pooling["pooling_mode_mean_tokens"]
    if first_token == mean:
        raise ValueError(
            "1_Pooling/config.json must ask for one of pooling_mode_cls_token and pooling_mode_mean_tokens"
        )
    with torch.device("meta"):  # allocates nothing: the engine assigns the mapped file
        return SentenceEncoder(config, first_token=first_token)
