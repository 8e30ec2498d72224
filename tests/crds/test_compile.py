"""Records → assignments."""

import pytest
from tests.crds.builders import DIGEST, JsonObject, a_model, a_pipeline, model, parsed
from tests.crds.largest import largest_model, largest_pipeline

from podium_crds.assignment import MAX_ASSIGNMENT_BYTES, MAX_REVISION_BYTES, Assignment, Generation
from podium_crds.base import json_bytes
from podium_crds.compile import compile_assignment, compile_revision, drain_policy
from podium_crds.errors import AssignmentTooLargeError, RecordError
from podium_crds.revision import RevisionRecord, revision_of

OTHER_DIGEST = "sha256:" + "cd" * 32


def record(document: JsonObject, configmaps: dict[str, dict[str, str]] | None = None) -> RevisionRecord:
    return revision_of(parsed(document), {}, configmaps=configmaps or {}, image="runtime:1")


def assignment(*records: RevisionRecord, promoted: str | None, **options: object) -> Assignment:
    fields = {"generation": Generation(transitions=1, sequence=2), **options}
    return compile_assignment(records[0].resource, records, promoted=promoted, **fields)  # type: ignore[arg-type]


def test_a_model_becomes_one_member_of_its_own_name_without_a_graph() -> None:
    revision = compile_revision(record(a_model(batching={"maxBatchSize": 8}, timeoutSeconds=7)))
    [member] = revision.members
    assert (member.name, member.engine.entrypoint, member.batching.max_batch_size) == ("echo", "echo:Echo", 8)
    assert (revision.timeout_seconds, member.timeout_seconds, revision.graph) == (7, 7, None)
    assert member.hang_timeout_seconds is None


def test_the_time_after_which_a_worker_counts_as_hung_reaches_the_member() -> None:
    [member] = compile_revision(record(a_model(hangTimeoutSeconds=60))).members
    assert member.hang_timeout_seconds == 60


def test_torch_options_reach_the_engine() -> None:
    options = {"entrypoint": "encoder:build", "dtype": "BF16", "device": "Cuda", "compile": True, "threads": 4}
    document = a_model(engine="Torch", torch={**options, "parameters": {"pooling": "mean"}})
    del document["spec"]["python"]
    engine = compile_revision(record(document)).members[0].engine
    assert engine.wire() == {"kind": "Torch", **options, "parameters": {"pooling": "mean"}}


def test_a_pipeline_keeps_its_graph() -> None:
    graph = compile_revision(record(a_pipeline())).graph
    assert graph is not None
    assert [step.name for step in graph.steps] == ["tokenize", "encode"]
    assert graph.outputs[0].source == "encode.embedding"


def test_warm_up_and_smoke_test_become_probes() -> None:
    smoke = {"request": {"x": [1]}, "expect": {"y": [1]}, "tolerance": "0.5"}
    warmup = {"requests": [{"x": [0]}], "timeoutSeconds": 9}
    member = compile_revision(record(a_model(smokeTest=smoke, warmup=warmup))).members[0]
    assert member.smoke_test is not None
    assert (member.smoke_test.inputs, member.smoke_test.expect, member.smoke_test.tolerance) == (
        {"x": [1]},
        {"y": [1]},
        0.5,
    )
    assert [probe.inputs for probe in member.warmup] == [{"x": [0]}]
    assert member.warmup_timeout_seconds == 9


def test_a_digest_of_the_spec_wins_over_a_resolved_one() -> None:
    document = a_model(source={"uri": "s3://m/k", "digest": DIGEST})
    assert compile_revision(record(document), {"echo": OTHER_DIGEST}).members[0].artifact.digest == DIGEST


def test_a_resolved_digest_is_pinned_and_the_first_one_stays() -> None:
    pinned = record(a_model()).with_digests({"echo": DIGEST})
    assert compile_revision(pinned).members[0].artifact.digest == DIGEST
    assert compile_revision(pinned, {"echo": OTHER_DIGEST}).members[0].artifact.digest == DIGEST


def test_pinning_a_digest_reloads_nothing() -> None:
    before = record(a_model())
    after = before.with_digests({"echo": DIGEST})
    assert compile_revision(before).members[0].load_hash == compile_revision(after).members[0].load_hash


def test_credentials_are_a_path_and_never_a_name_in_the_clear() -> None:
    document = a_model(source={"uri": "s3://m/k", "credentialsSecretRef": {"name": "keys"}})
    artifact = compile_revision(record(document)).members[0].artifact
    assert artifact.credentials_path == "/etc/podium/credentials/keys"


def test_files_of_a_configmap_travel_in_the_assignment() -> None:
    document = a_model(source={"uri": "configmap://code"})
    artifact = compile_revision(record(document, {"code": {"echo.py": "x = 1"}})).members[0].artifact
    assert artifact.wire() == {"files": {"echo.py": "x = 1"}}


def test_a_promoted_revision_takes_all_traffic_unless_told_otherwise() -> None:
    one = record(a_model())
    compiled = assignment(one, promoted=one.name)
    assert [(t.revision, t.weight) for t in compiled.traffic] == [(one.name, 100)]


def test_only_named_revisions_are_in_the_assignment() -> None:
    one, two, three = (record(a_model(version=str(number))) for number in (1, 2, 3))
    compiled = assignment(one, two, three, promoted=one.name, warm=[two.name])
    assert [revision.name for revision in compiled.revisions] == [one.name, two.name]


def test_a_candidate_takes_its_weight() -> None:
    one, two = record(a_model()), record(a_model(version="2"))
    compiled = assignment(one, two, promoted=one.name, traffic={one.name: 90, two.name: 10})
    assert {target.revision: target.weight for target in compiled.traffic} == {one.name: 90, two.name: 10}
    assert compiled.promoted == one.name


def test_before_the_first_promotion_nothing_is_routed() -> None:
    one = record(a_model())
    compiled = assignment(one, promoted=None, warm=[one.name])
    assert (compiled.promoted, compiled.traffic, compiled.revisions[0].name) == (None, (), one.name)


def test_a_revision_without_a_record_is_named() -> None:
    with pytest.raises(RecordError, match="echo-gone"):
        assignment(record(a_model()), promoted="echo-gone")


def test_rollout_knobs_that_pods_need_are_handed_on() -> None:
    rollout = model(rollout={"propagationSeconds": 1, "drainTimeoutSeconds": 2, "restartGraceSeconds": 3}).spec.rollout
    assert list(drain_policy(rollout).wire().values()) == [1, 2, 3]


def test_an_assignment_comes_back_from_json_as_it_was() -> None:
    one = record(a_pipeline())
    compiled = assignment(one, promoted=one.name, pool="search-0")
    assert Assignment.model_validate_json(compiled.model_dump_json(by_alias=True, exclude_none=True)) == compiled


@pytest.mark.parametrize("largest", [largest_model, largest_pipeline])
def test_two_revisions_of_the_largest_legal_object_fit_one_assignment(largest: object) -> None:
    document: JsonObject = largest()  # type: ignore[operator]
    old = record(document)
    document["spec"]["version"] = "2"
    document["spec"].get("models", [{"inline": {}}])[0]["inline"]["version"] = "2"
    new = record(document)
    compiled = assignment(old, new, promoted=old.name, warm=[new.name])
    assert len(compiled.revisions) == 2
    assert json_bytes(compiled.wire()) <= MAX_ASSIGNMENT_BYTES


def test_two_revisions_just_below_the_limit_fit_one_assignment() -> None:
    files = {"code": {"echo.py": "#" * (MAX_REVISION_BYTES - 2048)}}
    old = record(a_model(source={"uri": "configmap://code"}), files)
    new = record(a_model(source={"uri": "configmap://code"}, version="2"), files)
    assert len(assignment(old, new, promoted=old.name, warm=[new.name]).revisions) == 2


def test_a_revision_that_could_not_be_swapped_is_refused() -> None:
    files = {"code": {"echo.py": "#" * MAX_REVISION_BYTES}}
    with pytest.raises(AssignmentTooLargeError, match="into an artifact store"):
        record(a_model(source={"uri": "configmap://code"}), files)
