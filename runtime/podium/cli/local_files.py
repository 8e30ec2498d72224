"""YAML files → one assignment per resource, compiled by the same functions as the operator's.

`configmap://` sources are read from ConfigMap documents of the same files, `file:./…` is relative to its file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from podium_crds.assignment import Assignment, DrainPolicy, Generation, ResourceRef
from podium_crds.compile import compile_assignment
from podium_crds.errors import CrdsError, Problem, ResourceError
from podium_crds.model import InferenceModel
from podium_crds.parse import MAX_TEXT_BYTES, Resource, load_resources
from podium_crds.revision import RevisionRecord, revision_of
from podium_crds.rollout import RolloutSpec

IMAGE = "local"
RELATIVE = re.compile(r"file:(?P<path>\.{1,2}/[^\s\"'{},]*)")
DRAIN = DrainPolicy(propagation_seconds=0, drain_timeout_seconds=30)
MEMBER_ONLY = 0
"""spec.replicas of a model that is only a pipeline's member."""


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """What the files ask for."""

    resources: tuple[Resource, ...]
    records: tuple[RevisionRecord, ...]

    @property
    def guarded(self) -> tuple[str, ...]:
        """Resources that ask for API keys, whose Secret is not at hand here."""
        found = (r.metadata.name for r in self.resources if r.spec.exposure.auth.api_key_secret_ref is not None)
        return tuple(found)

    @property
    def rollouts(self) -> Mapping[ResourceRef, RolloutSpec]:
        """How each resource wants to be replaced."""
        return {
            record.resource: resource.spec.rollout
            for resource, record in zip(self.resources, self.records, strict=True)
        }

    def assignments(self, sequence: int) -> tuple[Assignment, ...]:
        """One for each resource that is served by itself, with all traffic on its one revision."""
        return tuple(
            compile_assignment(
                record.resource,
                [record],
                promoted=record.name,
                generation=Generation(sequence=sequence),
                drain=DRAIN,
            )
            for resource, record in zip(self.resources, self.records, strict=True)
            if resource.spec.replicas != MEMBER_ONLY
        )


def read_texts(paths: Sequence[Path]) -> dict[Path, str]:
    """Content of each file. Raises ResourceError for one that cannot be read."""
    texts = {}
    for path in paths:
        try:
            with path.open("rb") as handle:
                texts[path] = handle.read(MAX_TEXT_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ResourceError(str(path), (Problem("", f"cannot be read: {error}"),)) from error
    return texts


def compile_texts(texts: Mapping[Path, str]) -> LocalSpec:
    """Everything in the files, checked. Raises CrdsError with every problem of the first wrong document."""
    resources: list[Resource] = []
    configmaps: dict[str, dict[str, str]] = {}
    for path, text in texts.items():
        resources += load_resources(absolute(text, path.resolve().parent), str(path))
        configmaps.update(_configmaps(text))
    _refuse_twins(resources)
    models = {r.metadata.name: r for r in resources if isinstance(r, InferenceModel)}
    records = tuple(revision_of(r, models, configmaps=configmaps, image=IMAGE) for r in resources)
    if not resources:
        raise ResourceError(", ".join(map(str, texts)), (Problem("", "holds no InferenceModel or InferencePipeline"),))
    return LocalSpec(tuple(resources), records)


def explain(error: CrdsError) -> list[str]:
    """The lines that say what is wrong."""
    if isinstance(error, ResourceError):
        return [f"{error.subject}: {problem}" for problem in error.problems]
    return [str(error)]


def absolute(text: str, folder: Path) -> str:
    """The text with `file:./…` made absolute, as seen from `folder`."""
    return RELATIVE.sub(lambda match: f"file://{(folder / match['path']).resolve()}", text)


def _configmaps(text: str) -> dict[str, dict[str, str]]:
    """ConfigMap documents by name. `load_resources` has checked the text before."""
    found: dict[str, dict[str, str]] = {}
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("kind") == "ConfigMap" and document.get("apiVersion") == "v1":
            name = document.get("metadata", {}).get("name", "")
            found[name] = {str(key): str(value) for key, value in (document.get("data") or {}).items()}
    return found


def _refuse_twins(resources: Sequence[Resource]) -> None:
    seen: set[tuple[str, str]] = set()
    for resource in resources:
        key = (resource.kind, resource.metadata.name)
        if key in seen:
            raise ResourceError(f"{key[0]} {key[1]}", (Problem("", "is in more than one of the files: keep one"),))
        seen.add(key)
