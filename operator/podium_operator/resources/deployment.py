"""A pool's Deployment. Rendered once, when the pool is made; its pod template is never patched afterwards."""

from collections.abc import Mapping
from typing import Any

from podium_crds.compile import credentials_path
from podium_crds.keys import (
    ADMIN_KEY_DIR,
    ADMIN_PORT,
    ANNOTATION_TEMPLATE_VERSION,
    API_KEYS_DIR,
    ASSIGNMENT_DIR,
    DATA_PORT,
    GRPC_PORT,
    LABEL_POOL,
    STATE_DIR,
)
from podium_crds.revision import RevisionRecord
from podium_crds.rollout import RolloutSpec
from podium_crds.serving import PodMetadata, ServingSpec
from podium_operator.resources import names
from podium_operator.resources.labels import IMAGE, SHAPE_HASH, metadata, pool_labels
from podium_operator.state import Owner

TEMPLATE_VERSION = 1
"""Raised with every change of what is rendered here. Recorded in revisions; only a new shape takes a new version."""

CONTAINER = "runtime"
USER_ID = 65532
"""The unprivileged user of the runtime image."""
DRAIN_MARGIN_S = 15
"""Between the end of the drain and the kubelet's SIGKILL: workers stop, the log is flushed."""
_START_S = 120
"""How long the front end may take to answer its first liveness probe; models load after that."""


def deployment(
    owner: Owner, pool: str, record: RevisionRecord, replicas: int, live: tuple[RolloutSpec, PodMetadata]
) -> dict[str, Any]:
    """The Deployment of a pool whose pods have the shape of this record. `live`: the parts that make no revision."""
    rollout, pod_metadata = live
    stamp = {
        ANNOTATION_TEMPLATE_VERSION: str(record.template_version),
        SHAPE_HASH: record.hashes.shape,
        IMAGE: record.image,
    }
    labels = pool_labels(owner.resource, pool)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, pool, labels, stamp),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {LABEL_POOL: pool}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 0,
            # A load may take as long as it takes: pods are judged by their reports, not by this deadline.
            "progressDeadlineSeconds": 86_400,
            "template": {
                "metadata": {
                    "labels": {**pod_metadata.labels, **labels},
                    "annotations": {
                        **pod_metadata.annotations,
                        ANNOTATION_TEMPLATE_VERSION: str(record.template_version),
                    },
                },
                "spec": _pod(owner, pool, record, rollout),
            },
        },
    }


def grace_seconds(rollout: RolloutSpec) -> int:
    """terminationGracePeriodSeconds: the whole way out of a pod, and a margin."""
    return rollout.propagation_seconds + rollout.drain_timeout_seconds + DRAIN_MARGIN_S


def _pod(owner: Owner, pool: str, record: RevisionRecord, rollout: RolloutSpec) -> dict[str, Any]:
    serving = record.serving
    secrets = _credential_secrets(record)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(rollout),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(serving, record.image, secrets)],
        "volumes": [
            *_volumes(owner, pool, secrets),
            *_api_keys(serving),
            *(volume.wire() for volume in serving.volumes),
        ],
        **_scheduling(serving),
    }


def _scheduling(serving: ServingSpec) -> dict[str, Any]:
    found: Mapping[str, Any] = {
        "nodeSelector": dict(serving.node_selector),
        "affinity": serving.affinity,
        "tolerations": list(serving.tolerations),
        "topologySpreadConstraints": list(serving.topology_spread_constraints),
        "priorityClassName": serving.priority_class_name,
        "runtimeClassName": serving.runtime_class_name,
        "serviceAccountName": serving.service_account_name,
        "imagePullSecrets": [reference.wire() for reference in serving.image_pull_secrets],
    }
    return {name: value for name, value in found.items() if value}


def _container(serving: ServingSpec, image: str, secrets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": str(serving.runtime.image_pull_policy),
        "args": ["serve", "--pod"],
        "ports": _ports(serving),
        "env": [*_environment(serving), *(entry.wire() for entry in serving.env)],
        "resources": serving.resources.wire(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("live", period_s=1, failures=_START_S),
        "livenessProbe": _probe("live", period_s=5, failures=6),
        "readinessProbe": _probe("ready", period_s=1, failures=3),
        "volumeMounts": [*_mounts(serving, secrets), *(mount.wire() for mount in serving.volume_mounts)],
    }


def _ports(serving: ServingSpec) -> list[dict[str, Any]]:
    found = {"http": DATA_PORT, "admin": ADMIN_PORT}
    if serving.exposure.grpc:
        found["grpc"] = GRPC_PORT
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in found.items()]


def _environment(serving: ServingSpec) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "PODIUM_POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "HOME", "value": STATE_DIR},
    ]
    if serving.shared_memory.arena_bytes is not None:
        found.append({"name": "PODIUM_ARENA_BYTES", "value": str(serving.shared_memory.arena_bytes)})
    if serving.exposure.auth.api_key_secret_ref is not None:
        found.append({"name": "PODIUM_API_KEYS_PATH", "value": API_KEYS_DIR})
    if serving.exposure.grpc:
        found.append({"name": "PODIUM_GRPC_PORT", "value": str(GRPC_PORT)})
    return found


def _probe(kind: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/v2/health/{kind}", "port": "http", "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5 if kind == "live" else 2,
        "failureThreshold": failures,
        "successThreshold": 1,
    }


def _credential_secrets(record: RevisionRecord) -> tuple[str, ...]:
    found = {m.definition.source.credentials_secret_ref for m in record.members}
    return tuple(sorted(reference.name for reference in found if reference is not None))


def _mounts(serving: ServingSpec, secrets: tuple[str, ...]) -> list[dict[str, Any]]:
    api_keys = [{"name": volume["name"], "mountPath": API_KEYS_DIR, "readOnly": True} for volume in _api_keys(serving)]
    return [
        {"name": "podium-assignment", "mountPath": ASSIGNMENT_DIR, "readOnly": True},
        {"name": "podium-admin-key", "mountPath": ADMIN_KEY_DIR, "readOnly": True},
        {"name": "podium-state", "mountPath": STATE_DIR},
        {"name": "podium-tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point inside the pod, of its own
        *(
            {"name": _credential_volume(position), "mountPath": credentials_path(secret), "readOnly": True}
            for position, secret in enumerate(secrets)
        ),
        *api_keys,
    ]


def _api_keys(serving: ServingSpec) -> list[dict[str, Any]]:
    """The Secret with the API keys, where the resource names one. Not optional: without it no pod starts."""
    reference = serving.exposure.auth.api_key_secret_ref
    if reference is None:
        return []
    return [{"name": "podium-api-keys", "secret": {"secretName": reference.name, "defaultMode": 0o440}}]


def _volumes(owner: Owner, pool: str, secrets: tuple[str, ...]) -> list[dict[str, Any]]:
    admin_key = names.admin_key(owner.resource.name)
    return [
        # Directories, no subPath: the kubelet updates them in place.
        {"name": "podium-assignment", "configMap": {"name": pool, "defaultMode": 0o444}},
        {"name": "podium-admin-key", "secret": {"secretName": admin_key, "defaultMode": 0o440}},
        {"name": "podium-state", "emptyDir": {}},
        {"name": "podium-tmp", "emptyDir": {}},
        *(
            {"name": _credential_volume(position), "secret": {"secretName": secret, "defaultMode": 0o440}}
            for position, secret in enumerate(secrets)
        ),
    ]


def _credential_volume(position: int) -> str:
    return f"podium-credentials-{position}"
