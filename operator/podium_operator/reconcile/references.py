"""Reads what a spec refers to: ConfigMaps with files, and InferenceModels of the namespace."""

from collections.abc import Iterable, Mapping

from podium_crds.errors import CrdsError, ReferenceNotFoundError
from podium_crds.model import InferenceModel
from podium_crds.parse import Resource, parse_resource
from podium_crds.pipeline import InferencePipeline, Placement
from podium_crds.reasons import Reason
from podium_crds.revision import RevisionRecord, references, revision_of
from podium_operator.cache import Cache
from podium_operator.kube.client import KubeClient
from podium_operator.kube.kinds import Ref
from podium_operator.resources.deployment import TEMPLATE_VERSION
from podium_operator.resources.revision import read_revision
from podium_operator.state import Problem


def problem_of(error: CrdsError) -> Problem:
    """Why a spec gives no revision, as the condition has it."""
    reason = Reason.REFERENCE_NOT_FOUND if isinstance(error, ReferenceNotFoundError) else Reason.INVALID_SPEC
    return Problem(reason, str(error))


def _must_serve(models: Mapping[str, InferenceModel | RevisionRecord]) -> None:
    """Raises ReferenceNotFoundError for a model without pods that have served: nobody would answer its steps."""
    for name, found in models.items():
        if isinstance(found, InferenceModel):
            wanted = f"{name}, with replicas and a revision that serves (placement: Referenced calls its pods),"
            raise ReferenceNotFoundError("spec.models", "InferenceModel", wanted)


class References:
    """Looks up by name in one namespace. What is missing is left out: the caller's error names it."""

    def __init__(self, client: KubeClient, cache: Cache) -> None:
        self._client = client
        self._cache = cache

    async def configmaps(self, namespace: str, wanted: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Data of the user's ConfigMaps, read live: they are not watched."""
        found = {}
        for name in sorted(wanted):
            manifest = await self._client.find(Ref("ConfigMap", namespace, name))
            if manifest is not None:
                found[name] = {str(key): str(text) for key, text in (manifest.get("data") or {}).items()}
        return found

    def models(self, namespace: str, wanted: Iterable[str]) -> Mapping[str, InferenceModel | RevisionRecord]:
        """What each name stands for: the promoted revision of a model with pods of its own, else the model's spec.

        Raises ResourceError for a model that cannot be read.
        """
        found: dict[str, InferenceModel | RevisionRecord] = {}
        for name in sorted(wanted):
            manifest = self._cache.get(Ref("InferenceModel", namespace, name))
            if manifest is None or manifest["metadata"].get("deletionTimestamp") is not None:
                continue
            model = parse_resource(manifest)
            assert isinstance(model, InferenceModel), "the cache keeps kinds apart"
            found[name] = self._promoted(model) or model
        return found

    async def record(self, resource: Resource, image: str) -> RevisionRecord:
        """The revision that the resource asks for, members pinned. `image`: where it names none.

        Raises CrdsError where it gives none; `problem_of` says why.
        """
        namespace, needed = resource.metadata.namespace, references(resource)
        models = self.models(namespace, needed.models)
        if isinstance(resource, InferencePipeline) and resource.spec.placement is Placement.REFERENCED:
            _must_serve(models)
        unpinned = [model for model in models.values() if isinstance(model, InferenceModel)]
        wanted = needed.configmaps.union(*(references(model).configmaps for model in unpinned))
        configmaps = await self.configmaps(namespace, wanted)
        return revision_of(resource, models, configmaps=configmaps, image=image, template_version=TEMPLATE_VERSION)

    def _promoted(self, model: InferenceModel) -> RevisionRecord | None:
        """The revision that the model's own pods serve; None for a pure member, or before its first rollout ended."""
        current = model.status.current_revision
        if model.spec.replicas == 0 or current is None:
            return None
        manifest = self._cache.get(Ref("ControllerRevision", model.metadata.namespace, current))
        known = read_revision(manifest) if manifest is not None else None
        return known.record if known is not None else None
