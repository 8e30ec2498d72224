"""Four pipelines as plain functions. `podium trace flows:classify` prints classify.yaml, and so on.

    cd examples/pipelines && python prepare.py && podium serve -f classify.yaml -f cascade.yaml

Only classify needs prepare.py, which writes its ONNX graph.
"""

from typing import Any

from stages.images import Postprocess, Preprocess
from stages.multimodal import Detokenize, Generate, ImageEncoder, TextEncoder
from stages.words import Mean, Quick, Scorer, Thorough

from podium import cond, model, parallel, trace

STAGES = "file:./stages"


def tensor(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    """A declared tensor with rows first."""
    return {"name": name, "dtype": dtype, "shape": [-1, *shape]}


TEXT, LABEL, SCORE = tensor("text", "BYTES"), tensor("label", "BYTES"), tensor("score", "FP32")
IMAGE, PIXELS = tensor("image", "UINT8", -1, -1, 3), tensor("pixels", "FP32", 3, 8, 8)
PROBABILITIES = tensor("probabilities", "FP32", 3)

preprocess = model("preprocess", Preprocess, source=STAGES, inputs=[IMAGE], outputs=[PIXELS])
colours = model(
    "colours", source="file:./artifact", onnx={"file": "model.onnx"}, inputs=[PIXELS], outputs=[PROBABILITIES]
)
postprocess = model(
    "postprocess",
    Postprocess,
    source=STAGES,
    parameters={"labels": ["red", "green", "blue"]},
    inputs=[PROBABILITIES],
    outputs=[LABEL, SCORE],
)


@trace
def classify(image: Any) -> Any:
    """The main colour of an image."""
    return postprocess(colours(preprocess(image=image)))


quick = model("quick", Quick, source=STAGES, inputs=[TEXT], outputs=[LABEL, tensor("sure", "BOOL")])
thorough = model("thorough", Thorough, source=STAGES, inputs=[TEXT], outputs=[LABEL])


@trace
def cascade(request: Any) -> Any:
    """The quick model's answer where it is sure; else that of the thorough one, which otherwise does not run."""
    first = quick(text=request["text"])
    label = cond(first["sure"], lambda: first["label"], lambda: thorough(text=request["text"])["label"])
    return {"label": label, "sure": first["sure"]}


bright = model("bright", Scorer, source=STAGES, parameters={"words": ["good", "sun"]}, inputs=[TEXT], outputs=[SCORE])
warm = model("warm", Scorer, source=STAGES, parameters={"words": ["sun", "fire"]}, inputs=[TEXT], outputs=[SCORE])
mean = model(
    "mean",
    Mean,
    source=STAGES,
    inputs=[tensor("first", "FP32"), tensor("second", "FP32"), tensor("weight", "FP32")],
    outputs=[SCORE],
)


@trace
def ensemble(text: Any) -> Any:
    """Two models at once, and their weighted mean."""
    found = parallel(bright=lambda: bright(text=text)["score"], warm=lambda: warm(text=text)["score"])
    return {**found, "score": mean(first=found["bright"], second=found["warm"], weight=0.75)["score"]}


EMBEDDING, TOKENS = tensor("embedding", "FP32", 4), tensor("tokens", "INT64", -1)
text_encoder = model("text-encoder", TextEncoder, source=STAGES, inputs=[TEXT], outputs=[EMBEDDING])
image_encoder = model("image-encoder", ImageEncoder, source=STAGES, inputs=[IMAGE], outputs=[EMBEDDING])
generate = model(
    "generate",
    Generate,
    source=STAGES,
    inputs=[tensor("text", "FP32", 4), tensor("image", "FP32", 4), tensor("max_tokens", "INT64")],
    outputs=[TOKENS],
)
detokenize = model("detokenize", Detokenize, source=STAGES, inputs=[TOKENS], outputs=[TEXT])


@trace
def multimodal(text: Any, image: Any) -> Any:
    """Text and image are encoded at once; what is generated from both is written out."""
    words, picture = parallel(lambda: text_encoder(text=text), lambda: image_encoder(image=image))
    tokens = generate.step(timeout_seconds=20)(text=words, image=picture, max_tokens=5)
    return detokenize(tokens)
