"""The example's model and pipeline on the cluster: applied, awaited, read."""

import importlib.util
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from e2e.clusters.paths import REPOSITORY

from demo import store
from demo.client import PIPELINE
from demo.errors import DemoError
from demo.progress import detail
from demo.target import NAMESPACE, Target, condition
from podium_crds.reasons import Reason
from podium_crds.revision import RevisionRecord

MODEL = "minilm"
ENCODER = "encoder"
"""Name of the member of the pipeline that is the model."""
ARTIFACTS = REPOSITORY / ".podium" / "demo" / "minilm"
RESOURCES = (f"inferencemodels.podium.dev/{MODEL}", f"inferencepipelines.podium.dev/{PIPELINE}")
_READY_TIMEOUT_S = 600
_POLL_S = 0.5


def make_artifacts() -> Path:
    """Folders of encoder 1 and 2, tokenizer and normalisation."""
    example = _example()
    try:
        example.make_artifacts(ARTIFACTS)
    except example.PackageMissingError as error:
        raise DemoError(str(error)) from error
    return ARTIFACTS


def apply(target: Target, version: str) -> None:
    """`kubectl apply` of the example at that version of the encoder."""
    example = _example()
    sources = example.stored_sources(version, ARTIFACTS, store.URI, store.SECRET)
    detail(target.apply(f"{example.resources(version, sources)}").rstrip())


def wait_ready(target: Target) -> None:
    """`kubectl wait --for=condition=Ready` on both. Raises DemoError as soon as a rollout has failed, saying why."""
    command = ["wait", "--for=condition=Ready", f"--timeout={_READY_TIMEOUT_S}s", *RESOURCES]
    detail(f"kubectl -n {NAMESPACE} {' '.join(command)}")
    with subprocess.Popen(
        target.argv(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as waiting:
        try:
            while waiting.poll() is None:
                _refuse_failed(target)
                time.sleep(_POLL_S)
        finally:
            waiting.terminate()
        said = waiting.stdout.read() if waiting.stdout else ""
    if waiting.returncode != 0:
        raise DemoError(f"{said.strip()}\n{_explained(target)}")


def wait_serving(target: Target, version: str) -> None:
    """Returns once both are Ready and serve that version of the encoder.

    The pipeline's own generation does not move when its member does, so that Ready alone could be that of before.
    """
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not all(_serves(target, resource, version) for resource in RESOURCES):
        _refuse_failed(target)
        if time.monotonic() >= deadline:
            raise DemoError(f"version {version} does not serve after {_READY_TIMEOUT_S} s\n{_explained(target)}")
        time.sleep(_POLL_S)


def encoder_version(target: Target, revision: str) -> str:
    """Version of the encoder in a revision of model or pipeline; empty where there is no such revision any more."""
    found = target.find("controllerrevisions", revision)
    members = RevisionRecord.from_data(found["data"]).members if found else ()
    return next((each.definition.version for each in members if each.name in (MODEL, ENCODER)), "")


def url(target: Target) -> str:
    """Where the pipeline answers inside the cluster."""
    found = _get(target, f"inferencepipelines.podium.dev/{PIPELINE}").get("status", {}).get("url")
    if not found:
        raise DemoError(f"the pipeline is Ready, but its status has no url\n{_explained(target)}")
    return str(found)


def pods(target: Target) -> frozenset[str]:
    """UIDs of the pods that serve."""
    found = target.find("pods") or {"items": []}
    labels = ("podium.dev/model", "podium.dev/pipeline")
    return frozenset(
        pod["metadata"]["uid"]
        for pod in found["items"]
        if any(label in pod["metadata"].get("labels", {}) for label in labels)
    )


def _refuse_failed(target: Target) -> None:
    for resource in RESOURCES:
        found = _get(target, resource)
        progressing = condition(found, "Progressing")
        current = progressing.get("observedGeneration") == found["metadata"]["generation"]
        if current and progressing["status"] == "False" and progressing["reason"] != Reason.ROLLOUT_COMPLETE:
            raise DemoError(f"the rollout of {resource} has failed\n{_explained(target)}")


def _serves(target: Target, resource: str, version: str) -> bool:
    found = _get(target, resource)
    status = found.get("status", {})
    ready = condition(found, "Ready").get("status") == "True"
    observed = status.get("observedGeneration") == found["metadata"]["generation"]
    current = status.get("currentRevision")
    return bool(ready and observed and current and encoder_version(target, current) == version)


def _get(target: Target, resource: str) -> dict[str, Any]:
    kind, _, name = resource.partition("/")
    found = target.find(kind, name)
    if found is None:
        raise DemoError(f"{resource} is gone from namespace {NAMESPACE}")
    return found


def _explained(target: Target) -> str:
    lines = [target.kubectl("get", "pods", "-o", "wide")]
    for resource in RESOURCES:
        conditions = _get(target, resource).get("status", {}).get("conditions", [])
        lines.extend(f"{resource} {each['type']}={each['status']} {_why(each)}" for each in conditions)
    lines.append("more: kubectl -n podium-system logs deployment/podium")
    return "\n".join(lines)


def _why(found: Mapping[str, Any]) -> str:
    lines = str(found.get("message", "")).splitlines() or [""]
    told = lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"
    return f"{found.get('reason', '')}: {told[:400]}"


def _example() -> ModuleType:
    """examples/minilm/prepare.py, which is a script and no package."""
    path = REPOSITORY / "examples" / "minilm" / "prepare.py"
    spec = importlib.util.spec_from_file_location("minilm_prepare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
