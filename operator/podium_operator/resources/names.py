"""Names of the children. Deterministic, at most 63 characters."""

import hashlib

MAX_NAME = 63


def bounded(prefix: str, suffix: str) -> str:
    """`prefix-suffix`, the prefix shortened and told apart by a hash where both are too long together."""
    name = f"{prefix}-{suffix}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(prefix.encode()).hexdigest()[:8]
    return f"{prefix[: MAX_NAME - len(suffix) - 10].rstrip('-')}-{digest}-{suffix}"


def pool(resource: str, ordinal: int) -> str:
    """A pool's Deployment and ConfigMap."""
    return bounded(resource, str(ordinal))


def ordinal(resource: str, name: str) -> int | None:
    """The ordinal in a pool's name, or None where the name is no pool's of this resource."""
    suffix = name.rpartition("-")[2]
    return int(suffix) if suffix.isdecimal() and pool(resource, int(suffix)) == name else None


def service(resource: str) -> str:
    """The Service carries the resource's own name: that is what clients type."""
    return resource


_POOL_SERVICE = "-pool"


def pool_service(pool: str) -> str:
    """The Service of one pool alone. Never cut: a resource's name leaves room for both ends."""
    return f"{pool}{_POOL_SERVICE}"


def pool_of_service(service: str) -> str | None:
    """The pool that a Service of that name is for; None: for all of them."""
    return service.removesuffix(_POOL_SERVICE) if service.endswith(_POOL_SERVICE) else None


def http_route(resource: str) -> str:
    """The HTTPRoute."""
    return resource


def admin_key(resource: str) -> str:
    """The Secret with the admin key."""
    return bounded(resource, "admin-key")


def disruption_budget(resource: str) -> str:
    """The PodDisruptionBudget."""
    return resource
