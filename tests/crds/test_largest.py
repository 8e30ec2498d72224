"""The largest legal objects have every field of the API, so that no new one is forgotten where sizes are tested."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from e2e.clusters.paths import REPOSITORY
from tests.crds.builders import JsonObject
from tests.crds.largest import largest_model, largest_pipeline

SMALLER = {
    "onnx", "python", "handler", "vllm",  # in place of torch, which has the longest block
    "modelRef",  # in place of inline
    "fromFirst", "value", "notEquals",  # in place of from and equals, with a count of their own or no longer value
    "ragged",  # in place of padding
    "exportedProgram", "torchScript",  # in place of torch.entrypoint
}  # fmt: skip
"""What takes the place of something larger: both at once are refused."""


def schema_paths(schema: JsonObject, path: str = "") -> Iterator[str]:
    """Of every field that a schema names, lists passed through."""
    for name, inner in schema.get("properties", {}).items():
        if name not in SMALLER:
            yield f"{path}.{name}"
            yield from schema_paths(inner, f"{path}.{name}")
    if "items" in schema:
        yield from schema_paths(schema["items"], path)


def document_paths(value: Any, path: str = "") -> Iterator[str]:
    """Of every field that a document has."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            yield from document_paths(inner, f"{path}.{name}")
    if isinstance(value, list):
        for inner in value:
            yield from document_paths(inner, path)


@pytest.mark.parametrize(
    ("plural", "document"), [("inferencemodels", largest_model()), ("inferencepipelines", largest_pipeline())]
)
def test_every_field_of_the_api_is_in_the_largest_object(plural: str, document: JsonObject) -> None:
    crd = yaml.safe_load((REPOSITORY / "crds" / f"podium.dev_{plural}.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    missing = set(schema_paths(spec)) - set(document_paths(document["spec"]))
    assert missing == set()
