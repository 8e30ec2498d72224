"""YAML and live objects → resources: what is refused, and that the answer says where and what to write."""

import pytest
from tests.crds.builders import a_model, a_pipeline

from podium_crds.errors import ResourceError
from podium_crds.model import InferenceModel
from podium_crds.parse import MAX_TEXT_BYTES, load_resources, parse_resource
from podium_crds.pipeline import InferencePipeline

TEXT = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: echo}
spec:
  version: "1"
  engine: Python
  source: {uri: "s3://models/echo/1"}
  python: {entrypoint: "echo:Echo"}
"""

PIPELINE_TEXT = """
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {name: search}
spec:
  models: [{name: echo, modelRef: {name: echo}}]
  steps: [{name: only, model: echo, inputs: [{name: x, from: request.x}]}]
  outputs: [{name: y, from: only.y}]
"""


def refusal(text: str) -> str:
    with pytest.raises(ResourceError) as caught:
        load_resources(text, "file.yaml")
    return str(caught.value)


def test_documents_come_back_in_order() -> None:
    resources = load_resources(f"{TEXT}---\n{PIPELINE_TEXT}---\n")
    assert [type(resource) for resource in resources] == [InferenceModel, InferencePipeline]


def test_documents_of_other_groups_are_passed_over() -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: code}}\n---\n{TEXT}"
    assert [resource.metadata.name for resource in load_resources(text)] == ["echo"]


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('version: "1"', "version: 1", "spec.version", 'put it in quotes, as "1"'),
        ("engine: Python", "engine: Caffe", "spec.engine", "expected 'Torch', 'Onnx', 'Python', 'Handler'"),
        ("engine: Python", "engine: Torch", "spec", "write torch: {entrypoint: module:function}"),
        ("  python: {", "  replicas: '3'\n  python: {", "spec.replicas", "expected a valid integer"),
        ("  python: {", "  replica: 3\n  python: {", "spec.replica", "there is no such field"),
        ("echo:Echo", "echo", "spec.python.entrypoint", "expected module:attribute, such as encoder:build"),
        ("s3://models/echo/1", "models/echo", "spec.source.uri", "expected s3://bucket/key"),
        ("s3://models/echo/1", "http://store/echo", "spec.source", "add digest: sha256:<64 hex digits>"),
        ("name: echo", "name: Echo", "metadata.name", "lower-case letters"),
        ("kind: InferenceModel", "kind: InferenceModle", "kind", "expected podium.dev/v1alpha1 InferenceModel or"),
        ("v1alpha1", "v2", "kind", "got podium.dev/v2 InferenceModel"),
        ("  python: {", "  engine: Torch\n  python: {", "line 9, column 3", "key 'engine' is given twice"),
        ("metadata: {name: echo}", "metadata: {name: echo", "file.yaml", "line 5"),
    ],
)
def test_a_wrong_document_is_answered_with_the_path_and_what_to_write(
    old: str, new: str, where: str, what: str
) -> None:
    assert old in TEXT
    answer = refusal(TEXT.replace(old, new))
    assert where in answer
    assert what in answer


def test_every_problem_is_named_at_once() -> None:
    answer = refusal(TEXT.replace('"1"', "1").replace("Python", "Caffe"))
    assert "spec.version" in answer
    assert "spec.engine" in answer


def test_a_list_of_wrong_items_is_not_also_called_too_short() -> None:
    assert "items" not in refusal(PIPELINE_TEXT.replace("request.x", "requestx"))


def test_an_empty_list_is_called_too_short() -> None:
    assert "spec.outputs: expected at least 1 items, got 0" in refusal(
        PIPELINE_TEXT.replace("[{name: y, from: only.y}]", "[]")
    )


def test_the_same_resource_twice_is_refused() -> None:
    assert "InferenceModel echo is given twice" in refusal(f"{TEXT}---\n{TEXT}")


def test_two_entries_of_one_name_are_refused() -> None:
    assert "name A is used twice" in refusal(TEXT + "  env: [{name: A, value: x}, {name: A, value: y}]\n")


def test_dates_stay_text() -> None:
    [resource] = load_resources(TEXT.replace('"1"', "2024-01-01"))
    assert resource.spec.version == "2024-01-01"


def test_a_key_without_a_value_is_as_if_it_were_not_there() -> None:
    [resource] = load_resources(TEXT.replace('version: "1"', "version:\n  env:\n  rollout: {maxSurge: }"))
    assert (resource.spec.version, resource.spec.env, resource.spec.rollout.max_surge) == ("1", (), 1)


def test_a_null_inside_an_open_object_is_kept() -> None:
    [resource] = load_resources(TEXT + "  affinity: {nodeAffinity: }\n")
    assert resource.spec.affinity == {"nodeAffinity": None}


def test_merge_keys_are_followed_and_own_keys_win() -> None:
    text = TEXT.replace(
        'python: {entrypoint: "echo:Echo"}',
        'env: [&base {name: A, value: x}, {<<: *base, name: B}]\n  python: {entrypoint: "echo:Echo"}',
    )
    [resource] = load_resources(text)
    assert [entry.wire() for entry in resource.spec.env] == [{"name": "A", "value": "x"}, {"name": "B", "value": "x"}]


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "too many values" in refusal("\n".join(lines))


def test_merge_keys_that_multiply_are_read_in_bounded_time() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 40)]
    assert "lacks apiVersion or kind" in refusal("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "x" * (MAX_TEXT_BYTES + 1)],
    ids=["too deep", "too long"],
)
def test_hostile_text_is_refused_with_a_typed_error(text: str) -> None:
    assert "file.yaml" in refusal(text)


@pytest.mark.parametrize("rest", ["]", ""], ids=["whole", "cut off"])
def test_too_many_values_are_refused_before_the_rest_is_read(monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    monkeypatch.setattr("podium_crds.parse.MAX_NODES", 1000)
    assert "has more than 1000 values: simplify it" in refusal("- [" + "a," * 1000 + rest)


def test_keys_of_a_later_release_in_a_live_object_are_ignored() -> None:
    document = a_model(newField={"a": 1}, rollout={"maxSurge": 2, "newKnob": 3})
    resource = parse_resource(document)
    assert resource.spec.rollout.max_surge == 2


def test_status_of_another_release_is_ignored_field_by_field() -> None:
    document = a_model()
    document["status"] = {
        "observedGeneration": 7,
        "revisions": [{"name": "echo-0123456789", "state": "StateOfTheFuture"}],
    }
    resource = parse_resource(document)
    assert resource.status.observed_generation == 7
    assert resource.status.revisions == ()


def test_open_parts_of_a_pod_spec_are_kept_as_they_are() -> None:
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}}
    resource = parse_resource(a_model(env=[secret], affinity={"nodeAffinity": {"x_y": [1]}}))
    assert resource.spec.wire()["env"] == [secret]
    assert resource.spec.affinity == {"nodeAffinity": {"x_y": [1]}}


@pytest.mark.parametrize("document", [a_model(), a_pipeline()])
def test_a_resource_survives_the_way_out_and_back(document: dict[str, object]) -> None:
    resource = parse_resource(document)
    assert parse_resource(resource.wire()) == resource
