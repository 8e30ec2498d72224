"""Revisions: which change needs what, and that nothing else does."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crds.builders import DIGEST, JsonObject, a_definition, a_model, a_pipeline, model, pipeline
from tests.crds.largest import largest_model
from tests.crds.specs import models

from podium_crds.assignment import Member, RemoteModel
from podium_crds.compile import compile_revision
from podium_crds.errors import RecordError, ReferenceNotFoundError, ResourceError
from podium_crds.model import InferenceModel, InferenceModelSpec, ModelDefinition
from podium_crds.parse import parse_resource
from podium_crds.pipeline import InferencePipelineSpec
from podium_crds.revision import (
    LOAD_FIELDS,
    SHAPE_FIELDS,
    TUNING_FIELDS,
    UNHASHED_FIELDS,
    RevisionRecord,
    references,
    revision_of,
)
from podium_crds.serving import ServingSpec

Hash = Literal["shape", "load", "tuning"]
GOLDEN = Path(__file__).parent / "golden_revisions.json"


def record(document: JsonObject, **options: Any) -> RevisionRecord:
    return revision_of(parse_resource(document), {}, **{"configmaps": {}, "image": "runtime:1", **options})


def changed(before: RevisionRecord, after: RevisionRecord) -> set[str]:
    return {part for part in ("shape", "load", "tuning") if getattr(before.hashes, part) != getattr(after.hashes, part)}


MODEL_CHANGES: dict[str, tuple[JsonObject, set[Hash]]] = {
    "version": ({"version": "2"}, {"load"}),
    "source": ({"source": {"uri": "s3://models/echo/2"}}, {"load"}),
    "engine": ({"engine": "Torch", "python": None, "torch": {"entrypoint": "echo:Echo"}}, {"load"}),
    "torch": ({"engine": "Torch", "python": None, "torch": {"entrypoint": "echo:Echo", "dtype": "FP16"}}, {"load"}),
    "onnx": ({"engine": "Onnx", "python": None, "onnx": {"file": "other.onnx"}}, {"load"}),
    "handler": ({"engine": "Handler", "python": None, "handler": {"entrypoint": "echo:Echo"}}, {"load"}),
    "python": ({"python": {"entrypoint": "echo:Echo", "parameters": {"a": 1}}}, {"load"}),
    "vllm": ({"engine": "VLLM", "python": None, "vllm": {"engineArgs": {"max_model_len": 512}}}, {"load"}),
    "inputs": ({"inputs": [{"name": "x", "dtype": "FP32", "shape": [-1]}]}, {"load"}),
    "outputs": ({"outputs": [{"name": "x", "dtype": "FP32", "shape": [-1]}]}, {"load"}),
    "instances": ({"instances": 2}, {"load"}),
    "warmup": ({"warmup": {"requests": [{"x": 1}]}}, {"load"}),
    "smoke_test": ({"smokeTest": {"request": {"x": 1}}}, {"load"}),
    "batching": ({"batching": {"maxBatchSize": 8}}, {"tuning"}),
    "idempotent": ({"idempotent": True}, {"tuning"}),
    "hang_timeout_seconds": ({"hangTimeoutSeconds": 60}, {"tuning"}),
    "timeout_seconds": ({"timeoutSeconds": 31}, {"tuning"}),
    "gpu_fraction": (
        {"gpuFraction": "0.5", "resources": {"limits": {"nvidia.com/gpu": 1}}},
        {"load", "shape"},
    ),
    "runtime": ({"runtime": {"image": "mine:1"}}, {"shape"}),
    "resources": ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, {"shape"}),
    "node_selector": ({"nodeSelector": {"a": "b"}}, {"shape"}),
    "affinity": ({"affinity": {"nodeAffinity": {}}}, {"shape"}),
    "tolerations": ({"tolerations": [{"key": "a"}]}, {"shape"}),
    "topology_spread_constraints": ({"topologySpreadConstraints": [{"maxSkew": 1}]}, {"shape"}),
    "priority_class_name": ({"priorityClassName": "high"}, {"shape"}),
    "runtime_class_name": ({"runtimeClassName": "nvidia"}, {"shape"}),
    "service_account_name": ({"serviceAccountName": "mine"}, {"shape"}),
    "image_pull_secrets": ({"imagePullSecrets": [{"name": "a"}]}, {"shape"}),
    "env": ({"env": [{"name": "A", "value": "b"}]}, {"shape"}),
    "volumes": ({"volumes": [{"name": "a", "emptyDir": {}}]}, {"shape"}),
    "volume_mounts": ({"volumeMounts": [{"name": "a", "mountPath": "/a"}]}, {"shape"}),
    "exposure": ({"exposure": {"auth": {"apiKeySecretRef": {"name": "keys"}}}}, {"shape"}),
    "shared_memory": ({"sharedMemory": {"arenaBytes": 1 << 25}}, {"shape"}),
    "replicas": ({"replicas": 5}, set()),
    "suspend": ({"suspend": True}, set()),
    "pod_metadata": ({"podMetadata": {"labels": {"a": "b"}}}, set()),
    "rollout": ({"rollout": {"strategy": "Surge", "maxSurge": 3, "paused": True, "loadTimeoutSeconds": 9}}, set()),
}


@pytest.mark.parametrize(("change", "expected"), MODEL_CHANGES.values(), ids=MODEL_CHANGES)
def test_a_changed_field_changes_only_the_hash_of_its_work(change: JsonObject, expected: set[Hash]) -> None:
    document = a_model(**change)
    document["spec"] = {key: value for key, value in document["spec"].items() if value is not None}
    before, after = record(a_model()), record(document)
    assert changed(before, after) == expected
    assert (before.name == after.name) == (not expected)


def test_every_field_of_a_model_is_in_the_table() -> None:
    assert set(MODEL_CHANGES) == set(InferenceModelSpec.model_fields)


@pytest.mark.parametrize("spec", [InferenceModelSpec, InferencePipelineSpec, ModelDefinition, ServingSpec])
def test_every_field_belongs_to_exactly_one_hash_or_to_none(spec: type[ServingSpec | ModelDefinition]) -> None:
    groups = [SHAPE_FIELDS, LOAD_FIELDS, TUNING_FIELDS, UNHASHED_FIELDS]
    assert {name: sum(name in group for group in groups) for name in spec.model_fields} == dict.fromkeys(
        spec.model_fields, 1
    )


def test_the_name_of_a_credentials_secret_is_shape_because_pods_mount_it() -> None:
    with_secret = a_model(source={"uri": "s3://models/echo/1", "credentialsSecretRef": {"name": "keys"}})
    assert changed(record(a_model()), record(with_secret)) == {"shape"}


def _step(**fields: Any) -> list[JsonObject]:
    steps: list[JsonObject] = a_pipeline()["spec"]["steps"]
    return [{**steps[0], **fields}, steps[1]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": "2"}, {"load"}),
        ({"steps": _step(timeoutSeconds=3)}, {"tuning"}),
        ({"steps": _step(retries=1)}, {"tuning"}),
        ({"steps": _step(inputs=[{"name": "text", "from": "request.other"}])}, {"load"}),
        ({"steps": _step(when={"from": "request.kind", "equals": "long"})}, {"load"}),
        ({"outputs": [{"name": "vector", "from": "encode.embedding"}]}, {"load"}),
        ({"steps": list(reversed(_step()))}, set()),
        ({"models": list(reversed(a_pipeline()["spec"]["models"]))}, set()),
        ({"placement": "Colocated", "replicas": 2}, set()),
    ],
)
def test_a_changed_pipeline_changes_only_the_hash_of_its_work(change: JsonObject, expected: set[Hash]) -> None:
    assert changed(record(a_pipeline()), record(a_pipeline(**change))) == expected


def test_a_changed_member_leaves_the_load_hash_of_the_others() -> None:
    document = a_pipeline()
    document["spec"]["models"][1]["inline"]["version"] = "2"
    before, after = record(a_pipeline()), record(document)
    same = {member.name: member.load_hash == after.member(member.name).load_hash for member in before.members}
    assert same == {"tokenizer": True, "encoder": False}
    assert changed(before, after) == {"load"}


def test_batching_of_a_member_is_tuning_of_the_pipeline() -> None:
    document = a_pipeline()
    document["spec"]["models"][0]["inline"]["batching"] = {"maxBatchSize": 2}
    assert changed(record(a_pipeline()), record(document)) == {"tuning"}


@given(models)
def test_the_same_meaning_has_the_same_name(document: JsonObject) -> None:
    resource = parse_resource(document)
    assert record(resource.wire()).name == record(document).name


@given(models, st.text(min_size=1), st.integers(1, 9))
def test_another_default_image_or_pod_builder_changes_no_name(document: JsonObject, image: str, version: int) -> None:
    assert record(document, image=image, template_version=version).name == record(document).name


@given(models)
def test_a_record_comes_back_from_json_as_it_was(document: JsonObject) -> None:
    written = record(document)
    assert RevisionRecord.from_data(json.loads(json.dumps(written.to_data()))) == written


def test_a_record_of_a_later_release_is_refused() -> None:
    with pytest.raises(RecordError, match="recordVersion 2"):
        RevisionRecord.from_data({**record(a_model()).to_data(), "recordVersion": 2})


def test_a_record_edited_by_hand_is_refused() -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        RevisionRecord.from_data({"recordVersion": 1})


def test_the_longest_resource_name_gives_a_revision_name_of_63_characters() -> None:
    assert len(record(largest_model()).name) == 63


def test_a_record_spells_every_default_out_so_that_a_later_release_reads_the_same() -> None:
    data = record(a_model()).to_data()
    assert data["members"][0]["definition"]["batching"] == {
        "maxBatchSize": 32,
        "maxDelayMicroseconds": 0,
        "maxQueueSize": 256,
        "maxConcurrentStreams": 64,
        "priority": 5,
        "deviceShare": 100,
        "padding": [],
    }


def test_a_record_keeps_the_image_of_the_one_before_while_the_shape_is_the_same() -> None:
    before = record(a_model(), image="runtime:1", template_version=1)
    after = record(a_model(version="2"), image="runtime:2", template_version=2).pinned_like(before)
    assert (after.image, after.template_version) == ("runtime:1", 1)


def test_a_record_takes_the_new_image_with_a_new_shape() -> None:
    before = record(a_model(), image="runtime:1", template_version=1)
    wider = a_model(resources={"limits": {"cpu": 2}})
    after = record(wider, image="runtime:2", template_version=2).pinned_like(before)
    assert (after.image, after.template_version) == ("runtime:2", 2)


def test_an_image_of_the_users_own_wins_over_the_default() -> None:
    assert record(a_model(runtime={"image": "mine:1"}), image="runtime:1").image == "mine:1"


def test_a_resolved_digest_is_pinned_once_and_changes_no_name() -> None:
    first = record(a_model()).with_digests({"echo": DIGEST})
    second = first.with_digests({"echo": "sha256:" + "cd" * 32})
    assert second.digests == {"echo": DIGEST}
    assert second.name == record(a_model()).name


CODE = {"echo.py": "class Echo: ...", "encoder.py": "def build(): ...", "encoder.json": "{}"}


def test_content_of_a_configmap_is_part_of_the_load_hash() -> None:
    document = a_model(source={"uri": "configmap://code"})
    before = record(document, configmaps={"code": CODE})
    after = record(document, configmaps={"code": {**CODE, "echo.py": "class Echo: pass"}})
    assert changed(before, after) == {"load"}
    assert before.members[0].files == CODE


def test_a_prefix_takes_only_the_keys_that_begin_with_it() -> None:
    taken = record(a_model(source={"uri": "configmap://code/encoder"}), configmaps={"code": CODE}).members[0].files
    assert set(taken or {}) == {"encoder.py", "encoder.json"}


@pytest.mark.parametrize("uri", ["configmap://missing", "configmap://code/absent"])
def test_a_configmap_or_prefix_that_is_not_there_is_a_missing_reference(uri: str) -> None:
    with pytest.raises(ReferenceNotFoundError, match="ConfigMap"):
        record(a_model(source={"uri": uri}), configmaps={"code": CODE})


def test_a_configmap_without_text_says_where_binary_files_belong() -> None:
    with pytest.raises(ReferenceNotFoundError, match="binary files belong into an artifact store"):
        record(a_model(source={"uri": "configmap://code"}), configmaps={"code": {}})


REFERENCING = {
    "models": [{"name": "m", "modelRef": {"name": "echo"}}],
    "steps": [{"name": "one", "model": "m", "inputs": [{"name": "x", "from": "request.x"}]}],
    "outputs": [{"name": "y", "from": "one.y"}],
}


def test_a_referenced_model_can_be_given_as_it_is_or_as_its_promoted_revision() -> None:
    search = pipeline(**REFERENCING)
    options: dict[str, Any] = {"configmaps": {}, "image": "runtime:1"}
    as_spec = revision_of(search, {"echo": model()}, **options)
    as_record = revision_of(search, {"echo": record(a_model()).with_digests({"echo": DIGEST})}, **options)
    assert as_spec.name == as_record.name
    assert as_spec.digests == {}
    assert as_record.digests == {"m": DIGEST}


def test_a_referenced_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ReferenceNotFoundError, match=r"spec\.models\[m\]\.modelRef\.name: InferenceModel echo"):
        revision_of(pipeline(**REFERENCING), {}, configmaps={}, image="runtime:1")


def test_editing_a_referenced_model_makes_a_new_revision_of_the_pipeline() -> None:
    search = pipeline(**REFERENCING)
    before = revision_of(search, {"echo": model()}, configmaps={}, image="runtime:1")
    after = revision_of(search, {"echo": model(version="2")}, configmaps={}, image="runtime:1")
    assert changed(before, after) == {"load"}


FAR = {**REFERENCING, "placement": "Referenced"}


def test_a_model_that_is_called_in_its_own_pods_is_pinned_by_its_contract_alone() -> None:
    options: dict[str, Any] = {"configmaps": {}, "image": "runtime:1"}
    before = revision_of(pipeline(**FAR), {"echo": model()}, **options)
    other = {"version": "2", "source": {"uri": "s3://models/echo/2"}, "batching": {"maxBatchSize": 8}, "instances": 3}
    assert revision_of(pipeline(**FAR), {"echo": model(**other)}, **options) == before
    private = {"uri": "s3://m/k", "credentialsSecretRef": {"name": "keys"}}
    assert revision_of(pipeline(**FAR), {"echo": model(source=private)}, **options) == before
    again = revision_of(pipeline(**FAR), {"echo": model(idempotent=True)}, **options)
    assert changed(before, again) == {"tuning"}
    outputs = [{"name": "y", "dtype": "FP32", "shape": [-1]}]
    assert changed(before, revision_of(pipeline(**FAR), {"echo": model(outputs=outputs)}, **options)) == {"load"}
    here = revision_of(pipeline(**REFERENCING), {"echo": model()}, **options)
    assert changed(before, here) == {"shape", "load"}
    assert RevisionRecord.from_data(before.to_data()) == before


def test_a_promoted_revision_and_a_spec_give_the_same_contract_to_call() -> None:
    options: dict[str, Any] = {"configmaps": {}, "image": "runtime:1"}
    served = record(a_model()).with_digests({"echo": DIGEST})
    found = revision_of(pipeline(**FAR), {"echo": served}, **options)
    assert found == revision_of(pipeline(**FAR), {"echo": model()}, **options)
    assert found.digests == {}


def test_a_member_in_other_pods_compiles_to_their_service_and_no_files() -> None:
    found = revision_of(pipeline(**FAR), {"echo": model()}, configmaps={}, image="runtime:1")
    (member,) = compile_revision(found).members
    assert member.remote == RemoteModel(url=f"http://echo.{found.resource.namespace}.svc", model="echo")
    assert (member.artifact.uri, member.artifact.files) == (None, {})
    assert Member.model_validate_json(member.model_dump_json(by_alias=True)) == member


def test_a_model_that_steps_cannot_call_is_refused() -> None:
    guarded = model(exposure={"auth": {"apiKeySecretRef": {"name": "keys"}}})
    with pytest.raises(
        ResourceError, match=r"spec\.models\[m\]\.modelRef\.name: InferenceModel echo asks for API keys"
    ):
        revision_of(pipeline(**FAR), {"echo": guarded}, configmaps={}, image="runtime:1")
    document = a_model()
    document["spec"] = {"source": {"uri": "s3://m/k"}, "engine": "VLLM", "vllm": {}}
    chat = parse_resource(document)
    assert isinstance(chat, InferenceModel)
    with pytest.raises(ResourceError, match="has engine VLLM"):
        revision_of(pipeline(**FAR), {"echo": chat}, configmaps={}, image="runtime:1")


def test_a_graph_that_cannot_run_is_refused_with_the_step_and_the_edge() -> None:
    document = a_pipeline(steps=_step(inputs=[{"name": "txt", "from": "request.text"}]))
    with pytest.raises(ResourceError, match=r"spec\.steps\[tokenize\]\.inputs\[txt\]: member tokenizer has no such"):
        record(document)


def test_a_member_that_takes_no_tensors_is_refused_also_where_it_is_referenced() -> None:
    document = a_model()
    document["spec"] = {"source": {"uri": "s3://m/k"}, "engine": "VLLM", "vllm": {}}
    chat = parse_resource(document)
    assert isinstance(chat, InferenceModel)
    with pytest.raises(ResourceError, match=r"spec\.models\[m\]: engine VLLM takes no named tensors"):
        revision_of(pipeline(**REFERENCING), {"echo": chat}, configmaps={}, image="runtime:1")


def test_references_name_what_to_fetch_and_what_pods_mount() -> None:
    inline = a_definition(source={"uri": "configmap://code/encoder"})
    private = a_definition(source={"uri": "s3://m/k", "credentialsSecretRef": {"name": "keys"}})
    found = references(
        pipeline(
            **{
                **REFERENCING,
                "models": [
                    {"name": "a", "inline": inline},
                    {"name": "b", "inline": private},
                    {"name": "m", "modelRef": {"name": "echo"}},
                ],
            }
        )
    )
    assert (found.models, found.configmaps, found.secrets) == ({"echo"}, {"code"}, {"keys"})


@pytest.mark.parametrize("golden", json.loads(GOLDEN.read_text(encoding="utf-8")), ids=lambda golden: golden["name"])
def test_hashes_of_fixed_resources_are_those_of_earlier_releases(golden: JsonObject) -> None:
    """Fails if a change would give existing objects new revisions, and so roll every pod on upgrade."""
    found = record(golden["document"])
    assert {"name": found.name, **found.hashes.wire()} == {key: golden[key] for key in golden if key != "document"}


def test_grpc_needs_new_pods_and_spelling_its_default_out_needs_nothing() -> None:
    plain, asked, spelled = (record(a_model(exposure=value)) for value in ({}, {"grpc": True}, {"grpc": False}))
    assert asked.hashes.shape != plain.hashes.shape
    assert (asked.hashes.load, asked.hashes.tuning) == (plain.hashes.load, plain.hashes.tuning)
    assert spelled.name == plain.name


def test_a_route_through_gateways_makes_no_revision_and_is_no_part_of_one() -> None:
    route = {"parentRefs": [{"name": "public"}], "hostnames": ["models.example.com"], "path": "/echo"}
    plain, routed = record(a_model(exposure={"grpc": True})), record(a_model(exposure={"grpc": True, "gateway": route}))
    assert routed == plain
    assert routed.serving.exposure.gateway is None
    assert routed.serving.exposure.grpc
