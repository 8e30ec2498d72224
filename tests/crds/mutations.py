"""Resources with one random thing changed: right or wrong, everyone who reads them must agree which."""

from copy import deepcopy
from random import Random
from typing import Any

from tests.crds.builders import DIGEST, JsonObject, a_definition, a_model, a_pipeline, a_resource

from podium_crds.assignment import ResourceKind

Container = dict[str, Any] | list[Any]

_VALUES: tuple[Any, ...] = (
    *("", "x", "X y", "1", "-1", "0.5", "a.b", "a/b", "a:b", "request.x", "one.y", "Torch", "FP32", "Surge", "é" * 70),
    *(-1, 0, 1, 64, 5000, 2**31, 2**40, 2**60, 1.5, 2.0, True, False, None),
    *(
        [],
        [1],
        ["x"],
        {},
        {"a": 1},
        {"name": "x"},
        {"uri": "http://a/b"},
        {"entrypoint": "a:b"},
        {"file": "a/b.onnx"},
        {"exportedProgram": "m.pt2"},
    ),
)


def mutants(seed: int, count: int) -> list[JsonObject]:
    """`count` resources named m0, m1, …, the same for the same seed."""
    random = Random(seed)
    return [_mutant(random, number) for number in range(count)]


def _mutant(random: Random, number: int) -> JsonObject:
    document = deepcopy(random.choice([_full_model(), _full_pipeline(), *_other_engines()]))
    document["metadata"]["name"] = f"m{number}"
    place, key = random.choice(_places(document["spec"]))
    match random.randrange(10):
        case 0 if isinstance(place, dict):
            del place[key]
        case 1 if isinstance(place, dict):
            place["unknownKey"] = 1
        case 2 if isinstance(place, list):
            place.append(deepcopy(place[key]))
        case _:
            place[key] = deepcopy(random.choice(_VALUES))
    return document


def _places(value: Any) -> list[tuple[Container, Any]]:
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _serving() -> JsonObject:
    return {
        "replicas": 2,
        "timeoutSeconds": 30,
        "suspend": False,
        "runtime": {"image": "runtime:1", "imagePullPolicy": "Always"},
        "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": 1}},
        "nodeSelector": {"pool": "gpu"},
        "priorityClassName": "high",
        "serviceAccountName": "mine",
        "imagePullSecrets": [{"name": "pull"}],
        "podMetadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "sharedMemory": {"arenaBytes": 1 << 25},
        "exposure": {
            "auth": {"apiKeySecretRef": {"name": "keys"}},
            "grpc": True,
            "gateway": {
                "parentRefs": [{"name": "public", "namespace": "infra", "sectionName": "https"}, {"name": "private"}],
                "hostnames": ["models.example.com", "*.example.org"],
                "path": "/minilm",
                "weights": True,
            },
        },
        "rollout": {
            "strategy": "InPlace",
            "maxSurge": 1,
            "maxUnavailable": 0,
            "drainTimeoutSeconds": 9,
            "paused": True,
            "steps": [{"weight": 10, "pauseSeconds": 60}, {"weight": 50}],
            "analysis": {
                "maxErrorPercent": 1,
                "maxP99LatencyPercent": 150,
                "minRequests": 50,
                "prometheus": {
                    "address": "http://prometheus:9090",
                    "query": "vector(1)",
                    "maxValue": "1",
                    "minValue": "0",
                },
                "parity": {
                    "shadowPercent": 5,
                    "tolerance": "0.01",
                    "outputs": [{"name": "y", "absolute": "0.1", "relative": "0.2"}],
                    "maxMismatchPercent": 1,
                    "minCompared": 20,
                    "allowSideEffects": True,
                },
            },
        },
    }


def _full_definition() -> JsonObject:
    tensor = {"name": "x", "dtype": "INT64", "shape": [-1, 3], "optional": True}
    return a_definition(
        version="v2",
        source={"uri": "s3://models/echo/1", "digest": DIGEST, "credentialsSecretRef": {"name": "keys"}},
        python={"entrypoint": "echo:Echo", "threads": 2},
        inputs=[tensor],
        outputs=[{**tensor, "name": "y"}],
        batching={"maxBatchSize": 8, "maxDelayMicroseconds": 100, "maxQueueSize": 16, "maxConcurrentStreams": 2},
        instances=2,
        idempotent=True,
        warmup={"timeoutSeconds": 9},
        smokeTest={"request": {"x": [[1, 2, 3]]}, "tolerance": "0.01"},
    )


def _full_model() -> JsonObject:
    return a_model(**_full_definition(), **_serving())


def _other_engines() -> list[JsonObject]:
    """Models of the other engines with all their options, one thing of which can then go wrong."""
    code = {"entrypoint": "echo:Echo", "threads": 2}
    blocks: dict[str, JsonObject] = {
        "Torch": {"exportedProgram": "a/model.pt2", "device": "Cpu", "compile": True, "threads": 2},
        "Onnx": {"file": "model.onnx", "device": "Auto", "threads": 2, "optimization": "Basic", "spinning": True},
        "Handler": code,
    }
    source = {"uri": "s3://models/echo/1"}
    return [
        a_resource(ResourceKind.MODEL, "m", {"source": source, "engine": engine, engine.lower(): block})
        for engine, block in blocks.items()
    ]


def _full_pipeline() -> JsonObject:
    inputs = [{"name": "x", "from": "request.x"}]
    return a_pipeline(
        version="v2",
        models=[{"name": "a", "inline": _full_definition()}, {"name": "b", "modelRef": {"name": "echo"}}],
        steps=[
            {"name": "one", "model": "a", "inputs": inputs, "timeoutSeconds": 3, "retries": 1},
            {"name": "two", "model": "b", "inputs": [{"name": "x", "from": "one.y"}]},
        ],
        outputs=[{"name": "y", "from": "two.y"}, {"name": "z", "fromFirst": ["two.z", "one.z"]}],
        placement="Colocated",
        **_serving(),
    )
