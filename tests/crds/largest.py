"""The largest legal object of each kind: every list as long, and every name as wide, as the schema allows.

Open objects (parameters, requests, affinity) are not filled, nor padding and further conditions of a pipeline: their
bound is that of the whole assignment. Every field is there once at least: test_largest.
"""

from typing import Any

from tests.crds.builders import DIGEST, JsonObject, a_resource

from podium_crds.assignment import ResourceKind
from podium_crds.base import MAX_RESOURCE_NAME
from podium_crds.batching import MAX_VARIABLE_TENSORS
from podium_crds.graph import MAX_MEMBERS, MAX_STEPS
from podium_crds.model import MAX_TENSORS
from podium_crds.pipeline import MAX_DECLARED_TENSORS, MAX_EDGES, MAX_OUTPUTS
from podium_crds.tensors import MAX_DIMS

NAME = "n" * MAX_RESOURCE_NAME
_WIDEST_DIM = 2**31 - 1
_DECIMAL = "999999999.999999999"


def largest_model() -> JsonObject:
    """An InferenceModel."""
    return a_resource(ResourceKind.MODEL, NAME, {**_definition("m", MAX_TENSORS, MAX_VARIABLE_TENSORS), **_serving()})


def largest_pipeline() -> JsonObject:
    """An InferencePipeline in which each step needs the values of the one before."""
    members = [_wide("m", i, 63) for i in range(MAX_MEMBERS)]
    steps = [_wide("s", i, 63) for i in range(MAX_STEPS)]
    return a_resource(
        ResourceKind.PIPELINE,
        NAME,
        {
            "version": "v" * 63,
            "models": [
                {"name": name, "inline": _definition("m", MAX_DECLARED_TENSORS // MAX_MEMBERS // 2, 1)}
                for name in members
            ],
            "steps": [
                {
                    "name": name,
                    "model": members[i % MAX_MEMBERS],
                    "inputs": [
                        {"name": _wide("t", k, 63), "from": f"{steps[i - 1] if i else 'request'}.{_wide('t', k, 63)}"}
                        for k in range(MAX_EDGES // MAX_STEPS)
                    ],
                    "when": {
                        "from": f"request.{_wide('w', i, 63)}",
                        "equals": "e" * 63,
                        "and": [{"from": f"request.{_wide('a', i, 63)}", "equals": "e" * 63}],
                    },
                    "timeoutSeconds": 3600,
                    "retries": 10,
                }
                for i, name in enumerate(steps)
            ],
            "outputs": [
                {"name": _wide("o", k, 63), "from": f"{steps[-1]}.{_wide('t', k % 4, 63)}"} for k in range(MAX_OUTPUTS)
            ],
            "placement": "Colocated",
            **_serving(),
        },
    )


def _definition(seed: str, tensors_each_way: int, padded: int) -> JsonObject:
    wide = [_WIDEST_DIM] * (MAX_DIMS - 2)
    tensors = [
        {
            "name": _wide("t", i, 63),
            "dtype": "UINT16",
            "shape": [-1, -1 if i < padded else _WIDEST_DIM, *wide],
            "optional": True,
        }
        for i in range(tensors_each_way)
    ]
    outputs = [{"name": _wide("t", i, 63), "dimensions": [1]} for i in range(padded)]
    return {
        "version": "v" * 63,
        "source": {
            "uri": _wide("s3://bucket/key", 0, 1024),
            "digest": DIGEST,
            "credentialsSecretRef": {"name": "c" * 253},
        },
        "engine": "Torch",
        "torch": {
            "entrypoint": f"{_wide(seed, 0, 200)}:build",
            "dtype": "FP32",
            "device": "Cuda",
            "compile": True,
            "threads": 256,
            "parameters": {"p": 1},
        },
        "inputs": tensors,
        "outputs": tensors,
        "batching": {
            "maxBatchSize": 4096,
            "maxDelayMicroseconds": 10_000_000,
            "maxQueueSize": 65536,
            "maxConcurrentStreams": 4096,
            "maxBatchElements": _WIDEST_DIM,
            "targetLatencyMilliseconds": 600_000,
            "priority": 9,
            "deviceShare": 1000,
            "padding": [
                {"input": _wide("t", i, 63), "dimensions": [1], "value": "-999999999.5", "outputs": outputs}
                for i in range(padded)
            ],
        },
        "instances": 64,
        "gpuFraction": "0.010000000",
        "idempotent": True,
        "hangTimeoutSeconds": 86400,
        "warmup": {"requests": [{"t": 1}] * 16, "timeoutSeconds": 86400},
        "smokeTest": {"request": {"t": 1}, "expect": {"t": 1}, "tolerance": "999999999.999999999"},
    }


def _serving() -> JsonObject:
    many: dict[str, Any] = {_wide("k", i, 63): "v" * 63 for i in range(64)}
    return {
        "replicas": 1000,
        "timeoutSeconds": 3600,
        "runtime": {"image": "i" * 512, "imagePullPolicy": "Always"},
        "resources": {
            "limits": {"nvidia.com/gpu": "16", **{_wide("r", i, 253): "1" * 30 + "Gi" for i in range(31)}},
            "requests": {_wide("r", i, 253): "1" * 30 + "Gi" for i in range(32)},
        },
        "nodeSelector": many,
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": _wide("t", i, 63)} for i in range(32)],
        "topologySpreadConstraints": [{"topologyKey": _wide("t", i, 63)} for i in range(16)],
        "priorityClassName": "p" * 253,
        "runtimeClassName": "r" * 253,
        "serviceAccountName": "s" * 253,
        "imagePullSecrets": [{"name": _wide("s", i, 253)} for i in range(16)],
        "env": [{"name": _wide("E", i, 253), "value": "v"} for i in range(128)],
        "volumes": [{"name": _wide("v", i, 63), "emptyDir": {}} for i in range(32)],
        "volumeMounts": [{"name": _wide("v", i, 63), "mountPath": _wide("/v", i, 1024)} for i in range(32)],
        "podMetadata": {"labels": many, "annotations": {_wide("a", i, 63): "v" * 63 for i in range(64)}},
        "sharedMemory": {"arenaBytes": 1 << 40},
        "exposure": {
            "auth": {"apiKeySecretRef": {"name": "k" * 253}},
            "grpc": True,
            "gateway": {
                "parentRefs": [
                    {"name": _wide("g", i, 253), "namespace": "n" * 63, "sectionName": "s" * 253} for i in range(8)
                ],
                "hostnames": [f"*.{_wide('h', i, 63)}.{'h' * 63}.{'h' * 63}.{'h' * 59}" for i in range(16)],
                "path": "/" + "p" * 255,
                "weights": True,
            },
        },
        "suspend": True,
        "rollout": {
            "strategy": "Recreate",
            "allowRecreate": True,
            "maxSurge": 100,
            "maxUnavailable": 100,
            "maxParallelLoads": 100,
            "steps": [{"weight": weight, "pauseSeconds": 604_800} for weight in range(90, 100)],
            "analysis": {
                "maxErrorPercent": 100,
                "maxP99LatencyPercent": 10_000,
                "minRequests": 1_000_000,
                "prometheus": {
                    "address": "http://" + "p" * 246,
                    "query": "q" * 2048,
                    "maxValue": _DECIMAL,
                    "minValue": _DECIMAL,
                },
                "parity": {
                    "shadowPercent": 100,
                    "tolerance": "999999999.999999999",
                    "outputs": [
                        {"name": _wide("t", i, 63), "absolute": _DECIMAL, "relative": _DECIMAL} for i in range(16)
                    ],
                    "maxMismatchPercent": 100,
                    "minCompared": 1_000_000,
                    "allowSideEffects": True,
                },
            },
            "minReadySeconds": 86400,
            "propagationSeconds": 600,
            "progressDeadlineSeconds": 86400,
            "scheduleTimeoutSeconds": 86400,
            "loadTimeoutSeconds": 86400,
            "drainTimeoutSeconds": 3600,
            "restartGraceSeconds": 3600,
            "rollbackWindowSeconds": 86400,
            "revisionHistoryLimit": 10,
            "paused": True,
        },
    }


def _wide(prefix: str, number: int, width: int) -> str:
    return f"{prefix}{number:0{width - len(prefix)}d}"
