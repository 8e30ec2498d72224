"""Resources for tests, as the JSON objects that people write."""

from typing import Any

from podium_crds.assignment import ResourceKind
from podium_crds.model import InferenceModel
from podium_crds.parse import Resource, parse_resource
from podium_crds.pipeline import InferencePipeline

JsonObject = dict[str, Any]

DIGEST = "sha256:" + "ab" * 32


def a_definition(**fields: Any) -> JsonObject:
    """A model without its pods; `fields` in wire names replace or add."""
    return {
        "source": {"uri": "s3://models/echo/1"},
        "engine": "Python",
        "python": {"entrypoint": "echo:Echo"},
        **fields,
    }


def a_model(name: str = "echo", **spec: Any) -> JsonObject:
    """An InferenceModel; `spec` in wire names replaces or adds fields of spec."""
    return a_resource(ResourceKind.MODEL, name, a_definition(**spec))


def a_pipeline(name: str = "search", **spec: Any) -> JsonObject:
    """tokenizer → encoder, with declared types; `spec` in wire names replaces or adds fields of spec."""
    tokens = {"name": "input_ids", "dtype": "INT64", "shape": [-1, -1]}
    tokenizer = a_definition(inputs=[{"name": "text", "dtype": "BYTES", "shape": [-1]}], outputs=[tokens])
    encoder = a_definition(inputs=[tokens], outputs=[{"name": "embedding", "dtype": "FP32", "shape": [-1, 384]}])
    return a_resource(
        ResourceKind.PIPELINE,
        name,
        {
            "models": [{"name": "tokenizer", "inline": tokenizer}, {"name": "encoder", "inline": encoder}],
            "steps": [
                {"name": "tokenize", "model": "tokenizer", "inputs": [{"name": "text", "from": "request.text"}]},
                {"name": "encode", "model": "encoder", "inputs": [{"name": "input_ids", "from": "tokenize.input_ids"}]},
            ],
            "outputs": [{"name": "embedding", "from": "encode.embedding"}],
            **spec,
        },
    )


def a_resource(kind: ResourceKind, name: str, spec: JsonObject) -> JsonObject:
    """A resource of the kind with exactly this spec."""
    return {"apiVersion": "podium.dev/v1alpha1", "kind": kind.value, "metadata": {"name": name}, "spec": spec}


def parsed(document: JsonObject) -> Resource:
    """The typed resource."""
    return parse_resource(document)


def model(**spec: Any) -> InferenceModel:
    """The typed form of `a_model`."""
    resource = parsed(a_model(**spec))
    assert isinstance(resource, InferenceModel)
    return resource


def pipeline(**spec: Any) -> InferencePipeline:
    """The typed form of `a_pipeline`."""
    resource = parsed(a_pipeline(**spec))
    assert isinstance(resource, InferencePipeline)
    return resource
