"""Settings of `podium serve`, read once from the environment (prefix PODIUM_) and passed down."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from podium_crds import keys

PREFIX = "PODIUM_"
SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)$")
"""What Kubernetes injects for a Service whose name starts with `podium`: not ours, so not judged."""

OF_THE_REPOSITORY = re.compile(
    r"^PODIUM_(CACHE|CLUSTER|KUBECONFIG|IMAGE_LOAD|ENGINE|E2E_KEEP|RECORD_GOLDEN|OPERATOR_[A-Z0-9_]+)$"
)
"""What the make targets, and the operator, read: set in a developer's shell, it must not stop `podium serve`."""

Port = Annotated[int, Field(ge=0, le=65535)]


class UnknownSettingError(ValueError):
    """The environment has a PODIUM_ variable that no setting reads: most likely a misspelling."""


class Settings(BaseSettings):
    """Configuration of the front end process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True, extra="ignore")

    host: str = "0.0.0.0"  # noqa: S104 - a pod listens on its own address; `podium serve` passes 127.0.0.1
    """Address of the data and admin ports."""
    data_port: Port = keys.DATA_PORT
    """Port for inference, health and metrics. 0 takes a free one."""
    admin_port: Port = keys.ADMIN_PORT
    """Port for assignments and reports (pod mode only). 0 takes a free one."""
    grpc_port: Port | None = None
    """Port for the Open Inference Protocol over gRPC; None: not served. 0 takes a free one."""
    grpc_connection_age_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Age at which a gRPC connection is told to go away, so that clients come to new pods and leave ending ones."""
    pod_uid: str = ""
    """metadata.uid of this pod (downward API). Pod mode requires it."""
    assignment_dir: Path = Path(keys.ASSIGNMENT_DIR)
    """Directory in which the pool's ConfigMap is mounted."""
    admin_key_dir: Path = Path(keys.ADMIN_KEY_DIR)
    """Directory in which the admin key Secret is mounted: files `current` and `previous`."""
    state_dir: Path = Path(keys.STATE_DIR)
    """Writable directory that outlives the container but not the pod: accepted assignment and artifact cache."""
    arena_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Size of the shared-memory arena; None: two of the largest bodies, within 32 MiB and a tenth of the memory."""
    arena_debug: bool = False
    """Overwrite shared memory when it is freed, so that a model that uses it too late shows. Slower; for tests."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Largest request body."""
    max_json_bytes: Annotated[int, Field(ge=1024)] = 8 << 20
    """Largest JSON part of a request; larger tensors go as binary."""
    api_keys_path: Path | None = None
    """Folder of a mounted Secret (a file for each key), or file of lines `name: key`; None: anybody may ask."""
    docs: bool = True
    """Whether /docs and /openapi.json are answered."""
    access_log: bool = False
    """Whether each answer is logged: path, status, time, ids, the name of the API key; never a payload."""
    mount_poll_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often the mounted assignment is looked at."""
    artifact_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest silence of an artifact store before the attempt counts as failed."""
    artifact_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    """Attempts at each artifact before ArtifactUnavailable is reported."""
    max_artifact_bytes: Annotated[int, Field(ge=1)] = 256 << 30
    """Largest artifact, and the largest total of an unpacked one."""
    artifact_cache_bytes: Annotated[int, Field(ge=0)] = 10 << 30
    """In a pod: artifacts that no revision uses are removed beyond this size, the least recently used first."""
    drain_margin_seconds: Annotated[float, Field(ge=0)] = 5.0
    """After the drain: time for workers to stop before they are killed."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""
    log_format: Literal["json", "terminal"] = "json"
    """`json`: one object a line. `terminal`: short lines for people."""


def read_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings from the process's environment, `overrides` (by field name) first.

    Raises UnknownSettingError for a PODIUM_ variable that nothing reads, pydantic.ValidationError for a bad value.
    """
    refuse_unknown(os.environ if environ is None else environ)
    return Settings(**overrides)  # type: ignore[arg-type]


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raises UnknownSettingError where a PODIUM_ variable is no setting, of no Service and of no make target."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in environ
        if name.startswith(PREFIX)
        and name not in known
        and not SERVICE_LINK.search(name)
        and not OF_THE_REPOSITORY.match(name)
    )
    if unknown:
        raise UnknownSettingError(
            f"unknown environment variables {', '.join(unknown)}; expected only {', '.join(sorted(known))}"
        )
