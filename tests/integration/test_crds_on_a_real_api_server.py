"""The CRDs in a real API server: it installs them, refuses what is wrong, and keeps what is right."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.crds.builders import JsonObject, a_model, a_pipeline
from tests.crds.largest import largest_model, largest_pipeline
from tests.crds.mutations import mutants
from tests.crds.refused import REFUSED, Refused
from tests.support.controlplane import ControlPlane

from podium_crds.assignment import MAX_ASSIGNMENT_BYTES, Generation
from podium_crds.base import json_bytes
from podium_crds.compile import compile_assignment
from podium_crds.errors import ResourceError
from podium_crds.generate import KINDS, Kind
from podium_crds.parse import load_resources, parse_resource
from podium_crds.revision import revision_of

pytestmark = pytest.mark.apiserver

CRDS = Path(__file__).parents[2] / "crds"
MODELS, PIPELINES = "inferencemodels.podium.dev", "inferencepipelines.podium.dev"


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> "Kubectl":
    return Kubectl(control_plane, namespace)


class Kubectl:
    """kubectl in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self._plane.kubectl("--namespace", self._namespace, *arguments, stdin=stdin)

    def apply(self, document: JsonObject, *options: str) -> str:
        return self("apply", "-f", "-", *options, stdin=json.dumps(document))

    def refusal(self, document: JsonObject) -> str:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self.apply(document)
        return str(caught.value.stderr)

    def accepted(self, documents: Iterable[JsonObject]) -> set[str]:
        """Names of those that the API server would take; nothing is kept."""
        manifest = "\n---\n".join(map(json.dumps, documents))
        try:
            output = self("create", "--dry-run=server", "-f", "-", stdin=manifest)
        except subprocess.CalledProcessError as refused:
            output = refused.stdout
        return {line.split()[0].split("/")[1] for line in output.splitlines() if "created" in line}

    def get(self, kind: str, name: str) -> JsonObject:
        found: JsonObject = json.loads(self("get", kind, name, "-o", "json"))
        return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_crd_is_established_and_structural(control_plane: ControlPlane, kind: Kind) -> None:
    crd = json.loads(control_plane.kubectl("get", "crd", f"{kind.plural}.podium.dev", "-o", "json"))
    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_installing_the_crd_again_changes_nothing(control_plane: ControlPlane, kind: Kind) -> None:
    name = f"{kind.plural}.podium.dev"
    before = control_plane.kubectl("get", "crd", name, "-o", "jsonpath={.metadata.generation}")
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS / kind.file_name))
    assert control_plane.kubectl("get", "crd", name, "-o", "jsonpath={.metadata.generation}") == before


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_api_server_refuses_with_what_to_write_instead(kubectl: Kubectl, case: Refused) -> None:
    assert case.message in kubectl.refusal(case.document)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_api_server_accepts_the_resource_without_the_fault(kubectl: Kubectl, case: Refused) -> None:
    assert "created" in kubectl.apply(case.repaired)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "Caffe"}, 'supported values: "Torch", "Onnx", "Python", "Handler", "VLLM"'),
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "3"}, "spec.replicas"),
        ({"replica": 3}, 'unknown field "spec.replica"'),
        ({"rollout": {"maxsurge": 3}}, 'unknown field "spec.rollout.maxsurge"'),
        ({"inputs": [{"name": "x", "dtype": "FP32", "shape": []}]}, "spec.inputs[0].shape"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
    ],
)
def test_the_api_server_refuses_what_the_schema_does_not_say(
    kubectl: Kubectl, change: JsonObject, message: str
) -> None:
    assert message in kubectl.refusal(a_model(**change))


@pytest.mark.parametrize("name", ["1st", "a.b", "n" * 53])
def test_a_name_that_no_service_could_have_is_refused(kubectl: Kubectl, name: str) -> None:
    assert "metadata.name becomes the name of a Service" in kubectl.refusal(a_model(name))


@pytest.mark.parametrize("largest", [largest_model, largest_pipeline])
def test_the_largest_legal_object_is_accepted_and_compiles(kubectl: Kubectl, largest: Any) -> None:
    document: JsonObject = largest()
    assert "serverside-applied" in kubectl.apply(document, "--server-side")
    kind = MODELS if document["kind"] == "InferenceModel" else PIPELINES
    live = parse_resource(kubectl.get(kind, document["metadata"]["name"]))
    record = revision_of(live, {}, configmaps={}, image="runtime:1")
    compiled = compile_assignment(record.resource, [record], promoted=record.name, generation=Generation())
    assert json_bytes(compiled.wire()) <= MAX_ASSIGNMENT_BYTES


@pytest.mark.parametrize("document", [a_model(), a_pipeline()], ids=["model", "pipeline"])
def test_a_live_object_has_the_revision_of_the_manifest(kubectl: Kubectl, document: JsonObject) -> None:
    kubectl.apply(document)
    kind = MODELS if document["kind"] == "InferenceModel" else PIPELINES
    live = parse_resource(kubectl.get(kind, document["metadata"]["name"]))
    names = {
        revision_of(resource, {}, configmaps={}, image="runtime:1").name
        for resource in (live, parse_resource(document))
    }
    assert len(names) == 1


def test_defaults_are_persisted(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    spec = kubectl.get(MODELS, "echo")["spec"]
    assert spec["replicas"] == 1
    assert spec["version"] == "1"
    batching = {"maxBatchSize": 32, "maxDelayMicroseconds": 0, "maxQueueSize": 256, "maxConcurrentStreams": 64}
    assert spec["batching"].items() >= batching.items()
    assert spec["rollout"]["strategy"] == "Auto"
    assert spec["rollout"]["drainTimeoutSeconds"] == 300


def test_a_default_beside_a_field_that_is_given_is_persisted_too(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(rollout={"maxSurge": 2}))
    rollout = kubectl.get(MODELS, "echo")["spec"]["rollout"]
    assert (rollout["maxSurge"], rollout["maxUnavailable"]) == (2, 0)


@pytest.mark.parametrize("document", [a_model(env=[{"name": "A", "value": "b"}]), a_pipeline()])
def test_applying_the_same_manifest_again_is_unchanged(kubectl: Kubectl, document: JsonObject) -> None:
    kubectl.apply(document)
    assert "unchanged" in kubectl.apply(document)


def test_open_parts_of_a_pod_spec_are_kept_as_they_are(kubectl: Kubectl) -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    volumes = [{"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]
    kubectl.apply(a_model(affinity=affinity, volumes=volumes, python={"entrypoint": "a:B", "parameters": {"x": [1.5]}}))
    spec = kubectl.get(MODELS, "echo")["spec"]
    assert (spec["affinity"], spec["volumes"], spec["python"]["parameters"]) == (affinity, volumes, {"x": [1.5]})


@pytest.mark.parametrize(("kind", "document"), [(MODELS, a_model()), (PIPELINES, a_pipeline())])
def test_scale_changes_replicas_alone(kubectl: Kubectl, kind: str, document: JsonObject) -> None:
    kubectl.apply(document)
    name = document["metadata"]["name"]
    kubectl("scale", f"{kind}/{name}", "--replicas=3")
    assert kubectl.get(kind, name)["spec"]["replicas"] == 3


def test_an_autoscaler_reads_the_selector_and_the_replicas_from_status(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    status = {"status": {"replicas": 2, "selector": "podium.dev/model=echo"}}
    kubectl("patch", MODELS, "echo", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    scale = json.loads(kubectl("get", MODELS, "echo", "--subresource=scale", "-o", "json"))
    assert scale["status"] == {"replicas": 2, "selector": "podium.dev/model=echo"}


def test_status_is_written_by_its_subresource_alone(kubectl: Kubectl) -> None:
    kubectl.apply({**a_model(), "status": {"replicas": 9}})
    assert "status" not in kubectl.get(MODELS, "echo")


def test_a_full_status_is_kept_as_the_operator_writes_it(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    status = a_full_status()
    kubectl("patch", MODELS, "echo", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    live = kubectl.get(MODELS, "echo")
    assert live["status"] == status
    assert parse_resource(live).status.wire() == status


def a_full_status() -> JsonObject:
    now = "2026-01-02T03:04:05Z"
    return {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": 1,
        "updatedReplicas": 0,
        "availableReplicas": 1,
        "selector": "podium.dev/model=echo",
        "url": "http://echo.default.svc",
        "endpoints": [{"name": "predict", "url": "http://echo.default.svc/v1/models/echo:predict"}],
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "LoadFailed",
                "message": "it died",
                "observedGeneration": 1,
                "lastTransitionTime": now,
            }
        ],
        "currentRevision": "echo-0123456789",
        "updateRevision": "echo-9876543210",
        "strategy": {"resolved": "InPlace", "reason": "it fits"},
        "plan": {
            "strategy": "InPlace",
            "reason": "it fits",
            "changes": ["version 1 → 2"],
            "trafficPercents": [100],
            "gpusNeeded": 0,
            "memoryBytesNeeded": 1 << 40,
            "expectedGapSeconds": 0,
        },
        "revisions": [
            {
                "name": "echo-9876543210",
                "version": "2",
                "state": "Failed",
                "replicas": 1,
                "readyReplicas": 0,
                "trafficPercent": 0,
                "startTime": now,
                "lastTransitionTime": now,
                "progress": {"bytesDone": 1, "bytesTotal": 2},
                "lastFailure": {"reason": "LoadFailed", "message": "it died", "exitCode": -9, "time": now},
            }
        ],
    }


def test_columns_say_at_a_glance_how_it_is(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(replicas=2))
    now = "2026-01-02T03:04:05Z"
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "lastTransitionTime": now,
            "message": "",
            "observedGeneration": 1,
        }
        for kind, status, reason in [
            ("Ready", "False", "RolloutInProgress"),
            ("Available", "True", "RolloutInProgress"),
            ("Progressing", "True", "RolloutInProgress"),
        ]
    ]
    status = {**a_full_status(), "conditions": conditions}
    kubectl("patch", MODELS, "echo", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    header, row = (line.split() for line in kubectl("get", MODELS).splitlines())
    shown = dict(zip(header, row, strict=True))
    del shown["AGE"]
    assert shown == {
        "NAME": "echo",
        "READY": "False",
        "AVAILABLE": "True",
        "VERSION": "1",
        "REPLICAS": "1",
        "DESIRED": "2",
        "UPDATED": "0",
        "ROLLOUT": "RolloutInProgress",
    }


def test_both_kinds_are_listed_by_category_and_answer_to_short_names(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    kubectl.apply(a_pipeline())
    listed = kubectl("get", "inference", "-o", "name").split()
    assert listed == ["inferencemodel.podium.dev/echo", "inferencepipeline.podium.dev/search"]
    assert kubectl("get", "imdl", "-o", "name").split() == listed[:1]
    assert kubectl("get", "ipl", "-o", "name").split() == listed[1:]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("inferencemodels", "A model served by pods that batch requests"),
        ("inferencemodels.spec.rollout.strategy", "Auto (resolves to one of the others"),
        ("inferencemodels.spec.source.uri", "configmap://name[/key-prefix]"),
        ("inferencepipelines.spec.steps.inputs.from", "`<step>.<output>`"),
        ("inferencepipelines.spec.models.inline.batching.maxBatchSize", "Most rows in one batch."),
        ("inferencemodels.status.conditions.reason", "each has a page in docs/reasons"),
    ],
)
def test_explain_reads_well(control_plane: ControlPlane, path: str, sentence: str) -> None:
    explained = " ".join(control_plane.kubectl("explain", path, "--api-version=podium.dev/v1alpha1").split())
    assert sentence in explained


@pytest.mark.parametrize("seed", range(3))
def test_the_api_server_and_podium_agree_on_what_is_right(kubectl: Kubectl, seed: int) -> None:
    """`podium serve -f` and a cluster must take the same files: 200 random changes of full resources each."""
    documents = {document["metadata"]["name"]: document for document in mutants(seed, 200)}
    by_podium = {name for name, document in documents.items() if _is_accepted(document)}
    assert 20 < len(by_podium) < 180
    assert {name: documents[name]["spec"] for name in kubectl.accepted(documents.values()) ^ by_podium} == {}


def _is_accepted(document: JsonObject) -> bool:
    try:
        load_resources(json.dumps(document))
    except ResourceError:
        return False
    return True
