"""Small valid resources, to be changed by the test that uses them."""

from typing import Any

Manifest = dict[str, Any]


def a_model(namespace: str, name: str = "minilm", version: str = "1", **spec: Any) -> Manifest:
    """An InferenceModel of one Python model; `spec` overrides whole fields."""
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "version": version,
            "source": {"uri": "https://models.example/minilm.tar"},
            "engine": "Python",
            "python": {"entrypoint": "model:Model"},
            "inputs": [{"name": "text", "dtype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": "length", "dtype": "INT64", "shape": [-1]}],
            **spec,
        },
    }


def a_pipeline(namespace: str, name: str = "answers", model: str = "minilm", **spec: Any) -> Manifest:
    """An InferencePipeline of one step that refers to a model."""
    step = {"name": "measure", "model": "member", "inputs": [{"name": "text", "from": "request.text"}]}
    return {
        "apiVersion": "podium.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "models": [{"name": "member", "modelRef": {"name": model}}],
            "steps": [step],
            "outputs": [{"name": "length", "from": "measure.length"}],
            **spec,
        },
    }
