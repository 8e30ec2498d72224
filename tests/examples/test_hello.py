"""The hello example: resources that parse, and code that answers."""

import numpy as np
import pytest
import yaml
from e2e.clusters.paths import REPOSITORY

from podium_crds.model import InferenceModel
from podium_crds.parse import load_resources

HELLO = REPOSITORY / "examples" / "hello"
GREETINGS = {"hello.yaml": b"Hello, Ada!", "hello-2.yaml": b"Good day, Ada!"}


@pytest.mark.parametrize("name", GREETINGS)
def test_the_model_is_the_one_in_the_configmap(name: str) -> None:
    text = (HELLO / name).read_text()
    (model,) = load_resources(text)
    assert isinstance(model, InferenceModel)
    configmap = next(each for each in yaml.safe_load_all(text) if each["kind"] == "ConfigMap")
    assert model.spec.source.uri == f"configmap://{configmap['metadata']['name']}"
    assert model.spec.options.entrypoint.partition(":")[0] + ".py" in configmap["data"]


@pytest.mark.parametrize("name", GREETINGS)
def test_it_greets(name: str) -> None:
    configmap = next(yaml.safe_load_all((HELLO / name).read_text()))
    scope: dict[str, type] = {}
    exec(configmap["data"]["hello.py"], scope)
    answer = scope["Hello"]().infer({"name": np.array([b"Ada"], dtype=object)})
    assert answer["greeting"].tolist() == [GREETINGS[name]]


def test_the_second_is_a_new_version_of_the_first() -> None:
    first, second = (load_resources((HELLO / name).read_text())[0] for name in GREETINGS)
    assert first.metadata.name == second.metadata.name
    assert first.spec.version != second.spec.version
