"""Configuration of the operator process: environment variables `PODIUM_OPERATOR_…`, read once. A leaf."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "PODIUM_OPERATOR_"
SERVICE_LINK = re.compile(r"^PODIUM_OPERATOR_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_[A-Z_]+)?)$")
"""What Kubernetes injects for a Service whose name starts with `podium-operator`: not ours, so not judged."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class UnknownSettingError(ValueError):
    """The environment names settings that do not exist: a misspelt one must not be ignored."""


class Settings(BaseSettings):
    """All that can be set about an operator process. Frozen; unknown variables with the prefix are refused."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, env_ignore_empty=True
    )

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve, comma-separated. Empty: all, which needs a ClusterRole."""

    runtime_image: str = "podium-runtime:latest"
    """Runtime image of resources that name none; pinned into their revision when it is made."""

    prometheus_addresses: Annotated[tuple[str, ...], NoDecode] = ()
    """Prometheus servers that resources may name in rollout.analysis.prometheus, comma-separated. Empty: none."""

    pod_admin_port: Annotated[int, Field(ge=1, le=65535)] = 8081
    """Admin port of runtime pods."""

    pod_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """The longest one call to a pod's admin port may take."""

    health_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside the pod
    """Address that /healthz, /readyz and /metrics are served on."""

    health_port: Annotated[int, Field(ge=0, le=65535)] = 9440
    """Port of /healthz, /readyz and /metrics. 0: any free one, logged as `health_listening`."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """How often the caches are compared with complete listings and every resource is looked at again."""

    workers: Annotated[int, Field(ge=1, le=256)] = 8
    """Resources reconciled at the same time."""

    pass_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """The longest one reconcile pass may take; it is tried again."""

    prime_timeout_seconds: Annotated[float, Field(ge=1, le=3600)] = 120.0
    """The longest the first listing of all kinds may take before the process gives up and restarts."""

    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long passes in work may go on after SIGTERM before they are cancelled."""

    lease_name: Annotated[str, Field(min_length=1, max_length=63)] = "podium-operator"
    """Lease that replicas compete for."""

    lease_namespace: str | None = None
    """Namespace of that Lease. Unset: the pod's own, else `default`."""

    lease_duration_seconds: Annotated[int, Field(ge=2, le=3600)] = 15
    """How long others wait before they take over from a leader that is silent."""

    lease_renew_seconds: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """How long a leader tries to renew before it gives up and exits. Less than the duration."""

    lease_retry_seconds: Annotated[float, Field(gt=0, le=600)] = 2.0
    """Between two tries, to take or to renew."""

    identity: str | None = None
    """Name of this replica in the Lease. Unset: the host name, and something random."""

    kubeconfig: Path | None = None
    """Kubeconfig file. Unset: $KUBECONFIG, else the pod's service account, else ~/.kube/config."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    @field_validator("namespaces", "prometheus_addresses", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def model_post_init(self, context: Any) -> None:
        """Refuse timings that cannot work together."""
        del context
        if not self.lease_retry_seconds < self.lease_renew_seconds < self.lease_duration_seconds:
            raise ValueError(
                "lease timings must be retry < renew < duration, got "
                f"{self.lease_retry_seconds}, {self.lease_renew_seconds}, {self.lease_duration_seconds}"
            )

    @property
    def lease_in(self) -> str:
        """Namespace of the Lease."""
        if self.lease_namespace:
            return self.lease_namespace
        try:
            return _NAMESPACE_FILE.read_text().strip() or "default"
        except OSError:
            return "default"


def load() -> Settings:
    """From the environment. Raises UnknownSettingError, or ValueError naming each variable that is wrong."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    named = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    unknown = sorted(name for name in named - known if not SERVICE_LINK.match(name))
    if unknown:
        raise UnknownSettingError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return Settings()
    except ValidationError as exc:
        lines = [f"{PREFIX}{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in exc.errors()]
        raise ValueError("; ".join(lines)) from exc
