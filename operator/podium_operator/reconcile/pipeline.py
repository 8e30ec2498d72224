"""InferencePipeline, with all its members pinned → its revision → the shared pass."""

from podium_crds.errors import CrdsError
from podium_crds.model import InferenceModel
from podium_crds.parse import parse_resource
from podium_crds.revision import references, revision_of
from podium_operator.reconcile.references import References, problem_of
from podium_operator.reconcile.serving import Parts, Serving
from podium_operator.resources.deployment import TEMPLATE_VERSION
from podium_operator.state import Key, Result


class PipelineReconciler:
    """One level-triggered pass over an InferencePipeline."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._serving = Serving(parts)
        self._references = References(parts.client, parts.cache)

    async def reconcile(self, key: Key) -> Result:
        """Bring the pipeline one step nearer to its spec. Raises OperatorError where the pass should be tried again."""
        subject = self._serving.begin(key)
        if subject is None:
            return Result()
        try:
            pipeline = parse_resource(subject.manifest)
            needed = references(pipeline)
            models = self._references.models(key.namespace, needed.models)
            unpinned = [model for model in models.values() if isinstance(model, InferenceModel)]
            wanted = needed.configmaps.union(*(references(model).configmaps for model in unpinned))
            record = revision_of(
                pipeline,
                models,
                configmaps=await self._references.configmaps(key.namespace, wanted),
                image=self._parts.runtime_image,
                template_version=TEMPLATE_VERSION,
            )
        except CrdsError as exc:
            return await self._serving.refuse(subject, problem_of(exc))
        return await self._serving.converge(subject, pipeline, record)
