"""Hypothesis strategies for resources: any mixture of fields, spelled in any of the ways that mean the same."""

from typing import Any

from hypothesis import strategies as st
from tests.crds.builders import DIGEST, JsonObject, a_model

_NAMES = st.text("abcdefghij", min_size=1, max_size=6)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)
_OPEN = st.dictionaries(_NAMES, _JSON, max_size=3)
_QUANTITIES = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]),
    st.integers(0, 64) | st.sampled_from(["500m", "1.5", "4Gi", "4096Mi", "4294967296", "2k", "0"]),
)
_TENSORS = st.lists(
    st.fixed_dictionaries(
        {
            "name": _NAMES,
            "dtype": st.sampled_from(["FP32", "INT64", "BYTES"]),
            "shape": st.lists(st.integers(-1, 9), min_size=1, max_size=4),
        },
        optional={"optional": st.booleans()},
    ),
    max_size=4,
    unique_by=lambda tensor: tensor["name"],
)


def _named(values: st.SearchStrategy[JsonObject], key: str = "name") -> st.SearchStrategy[list[JsonObject]]:
    return st.lists(values, max_size=4, unique_by=lambda item: item[key])


_BATCHING = st.fixed_dictionaries(
    {},
    optional={
        "maxBatchSize": st.integers(1, 64),
        "maxDelayMicroseconds": st.integers(0, 10),
        "maxQueueSize": st.integers(1, 512),
        "maxConcurrentStreams": st.integers(1, 512),
    },
)

_DEFINITION: dict[str, st.SearchStrategy[Any]] = {
    "version": st.sampled_from(["1", "2", "v3.1"]),
    "source": st.sampled_from(
        [
            {"uri": "s3://models/echo/1"},
            {"uri": "https://store/echo", "digest": DIGEST},
            {"uri": "s3://models/echo/1", "credentialsSecretRef": {"name": "keys"}},
        ]
    ),
    "python": st.fixed_dictionaries(
        {"entrypoint": st.just("echo:Echo")}, optional={"threads": st.integers(1, 4), "parameters": _OPEN}
    ),
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "batching": _BATCHING,
    "instances": st.integers(1, 3),
    "idempotent": st.booleans(),
    "hangTimeoutSeconds": st.integers(1, 86400),
    "warmup": st.fixed_dictionaries({}, optional={"requests": st.lists(_OPEN, max_size=2)}),
    "smokeTest": st.fixed_dictionaries({"request": _OPEN}, optional={"expect": _OPEN}),
}

_SERVING: dict[str, st.SearchStrategy[Any]] = {
    "replicas": st.integers(0, 4),
    "timeoutSeconds": st.integers(1, 60),
    "runtime": st.fixed_dictionaries({}, optional={"image": st.just("registry.example/runtime:1")}),
    "resources": st.fixed_dictionaries({}, optional={"limits": _QUANTITIES, "requests": _QUANTITIES}),
    "nodeSelector": st.dictionaries(_NAMES, _NAMES, max_size=3),
    "affinity": _OPEN,
    "tolerations": st.lists(_OPEN, max_size=3),
    "topologySpreadConstraints": st.lists(_OPEN, max_size=3),
    "imagePullSecrets": _named(st.fixed_dictionaries({"name": _NAMES})),
    "env": _named(
        st.fixed_dictionaries({"name": _NAMES}, optional={"value": st.sampled_from(["x", "y", "$(a)"]) | _NAMES})
    ),
    "volumes": _named(st.fixed_dictionaries({"name": _NAMES}, optional={"emptyDir": st.just({})})),
    "volumeMounts": _named(
        st.fixed_dictionaries({"name": _NAMES, "mountPath": _NAMES.map("/{}".format)}), key="mountPath"
    ),
    "podMetadata": st.fixed_dictionaries({}, optional={"labels": st.dictionaries(_NAMES, _NAMES, max_size=2)}),
    "exposure": st.fixed_dictionaries(
        {},
        optional={
            "auth": st.fixed_dictionaries(
                {}, optional={"apiKeySecretRef": st.fixed_dictionaries({"name": st.just("k")})}
            ),
            "grpc": st.booleans(),
            "gateway": st.fixed_dictionaries(
                {"parentRefs": st.lists(st.fixed_dictionaries({"name": st.just("public")}), min_size=1, max_size=1)},
                optional={"hostnames": st.just(["models.example.com"]), "path": _NAMES.map("/{}".format)},
            ),
        },
    ),
    "sharedMemory": st.fixed_dictionaries({}, optional={"arenaBytes": st.integers(1 << 20, 1 << 30)}),
    "rollout": st.fixed_dictionaries({}, optional={"maxSurge": st.integers(1, 3), "paused": st.booleans()}),
}

models: st.SearchStrategy[JsonObject] = st.fixed_dictionaries({}, optional=_DEFINITION | _SERVING).map(
    lambda fields: a_model(**fields)
)
"""An InferenceModel."""
