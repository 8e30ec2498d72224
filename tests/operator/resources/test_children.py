"""Manifests of the children, byte for byte as recorded in golden/. Record anew with PODIUM_RECORD_GOLDEN=1.

A golden file of a pod template that changes without a new TEMPLATE_VERSION would roll pods that were made before.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.builders import IMAGE, START, a_desired, a_model, after, an_owner

from podium_crds.assignment import Generation
from podium_crds.compile import compile_assignment
from podium_crds.gateway import GatewayRoute
from podium_crds.reasons import Reason
from podium_crds.revision import revision_of
from podium_operator.resources.assignment import assignment_configmap, read_assignment, written_transitions
from podium_operator.resources.deployment import deployment, grace_seconds
from podium_operator.resources.disruption import disruption_budget
from podium_operator.resources.hashing import desired_hash, stamped
from podium_operator.resources.labels import SHAPE_HASH
from podium_operator.resources.revision import (
    controller_revision,
    quarantine_annotation,
    read_revision,
    served_annotation,
)
from podium_operator.resources.route import http_route
from podium_operator.resources.secret import admin_key
from podium_operator.resources.service import pool_service, service
from podium_operator.state import Backends, Problem

GOLDEN = Path(__file__).parent / "golden"
FULL: dict[str, Any] = {
    "source": {"uri": "s3://models/minilm/1", "credentialsSecretRef": {"name": "s3-read"}},
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}, "requests": {"cpu": "500m"}},
    "nodeSelector": {"disk": "ssd"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "models",
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "COLOUR", "value": "blue"}],
    "volumes": [{"name": "data", "emptyDir": {}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    "podMetadata": {"labels": {"team": "search"}, "annotations": {"note": "x"}},
    "sharedMemory": {"arenaBytes": 67108864},
    "exposure": {"auth": {"apiKeySecretRef": {"name": "search-keys"}}},
    "rollout": {"propagationSeconds": 7, "drainTimeoutSeconds": 60},
}

ROUTE: dict[str, Any] = {
    "parentRefs": [{"name": "public", "namespace": "infra", "sectionName": "https"}, {"name": "private"}],
    "hostnames": ["models.example.com", "*.example.org"],
    "path": "/minilm",
}


def rendered(**spec: Any) -> dict[str, Any]:
    model = a_model(**spec)
    record = revision_of(model, {}, configmaps={}, image=IMAGE)
    return deployment(an_owner(), "minilm-0", record, 2, (model.spec.rollout, model.spec.pod_metadata))


def configmap() -> dict[str, Any]:
    desired = a_desired()
    record = desired.target.record
    assignment = compile_assignment(
        desired.owner.resource, [record], promoted=record.name, generation=Generation(sequence=1), pool="minilm-0"
    )
    return assignment_configmap(an_owner(), "minilm-0", assignment, START)


CHILDREN = {
    "deployment": rendered,
    "deployment-full": lambda: rendered(**FULL),
    "configmap": configmap,
    "deployment-grpc": lambda: rendered(exposure={"grpc": True}),
    "service": lambda: service(an_owner()),
    "service-grpc": lambda: service(an_owner(), grpc=True),
    "route": lambda: http_route(an_owner(), GatewayRoute.model_validate({"parentRefs": [{"name": "public"}]})),
    "route-full": lambda: http_route(an_owner(), GatewayRoute.model_validate(ROUTE)),
    "route-divided": lambda: http_route(
        an_owner(), GatewayRoute.model_validate(ROUTE), Backends(3, {"minilm-0": 7, "minilm-1": 0}), START
    ),
    "service-of-a-pool": lambda: pool_service(an_owner(), "minilm-0"),
    "secret": lambda: admin_key(an_owner(), b"k" * 32, None, ""),
    "secret-rotated": lambda: admin_key(an_owner(), b"n" * 32, b"k" * 32, "1"),
    "disruption-budget-of-one": lambda: disruption_budget(an_owner(), 1),
    "disruption-budget-of-two": lambda: disruption_budget(an_owner(), 2),
    "controller-revision": lambda: controller_revision(an_owner(), a_desired().target.record, 3),
}


@pytest.mark.parametrize("name", sorted(CHILDREN))
def test_a_child_is_as_recorded(name: str) -> None:
    text = yaml.safe_dump(CHILDREN[name](), sort_keys=True, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PODIUM_RECORD_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", sorted(CHILDREN))
def test_a_child_is_built_the_same_twice(name: str) -> None:
    assert CHILDREN[name]() == CHILDREN[name]()
    assert desired_hash(stamped(CHILDREN[name]())) == desired_hash(stamped(CHILDREN[name]()))


@pytest.mark.parametrize("name", sorted(CHILDREN))
def test_every_child_is_controlled_by_the_resource_and_found_by_its_labels(name: str) -> None:
    metadata = CHILDREN[name]()["metadata"]
    [reference] = metadata["ownerReferences"]
    assert reference["controller"]
    assert reference["uid"] == an_owner().uid
    assert metadata["labels"]["podium.dev/model"] == "minilm"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "podium-operator"


def test_the_hash_of_a_child_moves_with_its_content_alone() -> None:
    child = service(an_owner())
    hashed = stamped(child)
    assert desired_hash(child) is None
    child["spec"]["ports"][0]["port"] = 81
    assert desired_hash(stamped(child)) != desired_hash(hashed)


def test_pods_run_without_privileges() -> None:
    pod = rendered()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pool_is_selected_by_its_pool_label_alone_and_swaps_pods_without_a_gap() -> None:
    spec = rendered()["spec"]
    assert spec["selector"] == {"matchLabels": {"podium.dev/pool": "minilm-0"}}
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["revisionHistoryLimit"] == 0


def test_the_grace_period_holds_the_whole_way_out() -> None:
    rollout = a_model(rollout={"propagationSeconds": 7, "drainTimeoutSeconds": 60}).spec.rollout
    assert grace_seconds(rollout) > 67


def test_what_makes_no_revision_changes_no_shape() -> None:
    plain, tuned = rendered(), rendered(podMetadata={"labels": {"a": "b"}}, rollout={"drainTimeoutSeconds": 1})
    assert plain["metadata"]["annotations"][SHAPE_HASH] == tuned["metadata"]["annotations"][SHAPE_HASH]


def test_an_assignment_is_read_back_as_it_was_written() -> None:
    found = read_assignment(configmap())
    assert found is not None
    assert found.promoted == a_desired().target.name
    assert read_assignment({"data": {"assignment.json": "{"}}) is None
    assert read_assignment({}) is None


def test_the_fencing_number_of_an_assignment_is_read_or_absent() -> None:
    assert written_transitions(configmap()) == 0
    assert written_transitions({"data": {"assignment.json": "[]"}}) is None
    assert written_transitions({}) is None


def test_a_revision_is_read_back_with_what_was_learnt_since() -> None:
    record = a_desired().target.record
    manifest = controller_revision(an_owner(), record, 3)
    manifest["metadata"] |= {"uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}
    problem = Problem(Reason.SMOKE_TEST_FAILED, "off by one", START, 3)
    manifest["metadata"]["annotations"] = {
        **quarantine_annotation(problem, "again", "InPlace"),
        "podium.dev/digests": '{"minilm":"sha256:' + "ab" * 32 + '"}',
        **served_annotation(after(5)),
    }
    known = read_revision(manifest)
    assert known is not None
    assert known.quarantine == problem
    assert known.retry_token == "again"
    assert known.judged_under == "InPlace"
    assert known.served_at == after(5)
    assert known.record.digests == {"minilm": "sha256:" + "ab" * 32}
    assert known.record.with_digests({}).hashes == record.hashes
    assert known.ordinal == 3


def test_a_revision_of_a_later_release_is_left_alone() -> None:
    manifest = controller_revision(an_owner(), a_desired().target.record, 3)
    manifest["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    manifest["data"]["recordVersion"] = 99
    assert read_revision(manifest) is None
