"""The pipeline of minilm.yaml.in as a plain function: `podium trace flow:embed` in this folder prints its graph.

The encoder is the InferenceModel `minilm` of that file; the other two are the folders beside this one.
"""

from typing import Any

from podium import model, trace

TEXT = {"name": "text", "dtype": "BYTES", "shape": [-1]}
TOKENS = [{"name": name, "dtype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")]
EMBEDDING = {"name": "embedding", "dtype": "FP32", "shape": [-1, 384]}

tokenizer = model(
    "tokenizer", source="file:./tokenizer", python={"entrypoint": "tokenizer:Tokenizer"}, inputs=[TEXT], outputs=TOKENS
)
encoder = model("encoder", ref="minilm", inputs=TOKENS, outputs=[EMBEDDING])
normalise = model(
    "normalise",
    source="file:./normalise",
    python={"entrypoint": "normalise:Normalise"},
    inputs=[EMBEDDING],
    outputs=[EMBEDDING],
)


@trace
def embed(text: Any) -> Any:
    """Sentences → embeddings of length 1."""
    tokens = tokenizer.step("tokenize")(text=text)
    return normalise(encoder.step("encode")(tokens))
