"""InferenceModel → its revision → the shared pass."""

from podium_crds.errors import CrdsError
from podium_crds.parse import parse_resource
from podium_crds.revision import references, revision_of
from podium_operator.reconcile.references import References, problem_of
from podium_operator.reconcile.serving import Parts, Serving
from podium_operator.resources.deployment import TEMPLATE_VERSION
from podium_operator.state import Key, Result


class ModelReconciler:
    """One level-triggered pass over an InferenceModel."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._serving = Serving(parts)
        self._references = References(parts.client, parts.cache)

    async def reconcile(self, key: Key) -> Result:
        """Bring the model one step nearer to its spec. Raises OperatorError where the pass should be tried again."""
        subject = self._serving.begin(key)
        if subject is None:
            return Result()
        try:
            model = parse_resource(subject.manifest)
            needed = references(model)
            configmaps = await self._references.configmaps(key.namespace, needed.configmaps)
            record = revision_of(
                model,
                {},
                configmaps=configmaps,
                image=self._parts.runtime_image,
                template_version=TEMPLATE_VERSION,
            )
        except CrdsError as exc:
            return await self._serving.refuse(subject, problem_of(exc))
        return await self._serving.converge(subject, model, record)
