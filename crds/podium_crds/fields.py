"""Which part of a revision's identity each field of a spec belongs to: by the work that a change of it takes."""

SHAPE_FIELDS = frozenset(
    {
        "runtime",
        "resources",
        "node_selector",
        "affinity",
        "tolerations",
        "topology_spread_constraints",
        "priority_class_name",
        "runtime_class_name",
        "service_account_name",
        "image_pull_secrets",
        "env",
        "volumes",
        "volume_mounts",
        "shared_memory",
        "exposure",
        "placement",
    }
)
"""What needs a new pod. The Secret with the API keys is mounted by its name, so another name is another mount; what is
in it changes without one. So do the names of the credential Secrets of the members, since pods mount them. gRPC is a
port of the container and a listener of its process. `exposure.gateway` is nothing of a pod, and marked UNHASHED."""

LOAD_FIELDS = frozenset(
    {
        "version",
        "source",
        "engine",
        "torch",
        "onnx",
        "python",
        "handler",
        "vllm",
        "inputs",
        "outputs",
        "instances",
        "gpu_fraction",
        "warmup",
        "smoke_test",
        "models",
        "steps",
    }
)
"""What needs new workers, or, for `steps` and `outputs` of a pipeline, a new route through the same workers."""

TUNING_FIELDS = frozenset({"batching", "hang_timeout_seconds", "idempotent", "timeout_seconds"})
"""What loaded workers take on between two batches. So do `timeoutSeconds` and `retries` of steps."""

UNHASHED_FIELDS = frozenset({"replicas", "suspend", "pod_metadata", "rollout"})
"""What makes no revision."""
