"""A resource of either kind → its revision, members pinned → the pass that both share."""

from podium_crds.errors import CrdsError
from podium_crds.parse import parse_resource
from podium_operator.reconcile.references import References, problem_of
from podium_operator.reconcile.serving import Parts, Serving
from podium_operator.state import Key, Result


class ResourceReconciler:
    """One level-triggered pass over an InferenceModel or an InferencePipeline."""

    def __init__(self, parts: Parts) -> None:
        self._image = parts.runtime_image
        self._serving = Serving(parts)
        self._references = References(parts.client, parts.cache)

    async def reconcile(self, key: Key) -> Result:
        """Bring the resource one step nearer to its spec. Raises OperatorError where the pass should be tried again."""
        subject = self._serving.begin(key)
        if subject is None:
            return Result()
        try:
            resource = parse_resource(subject.manifest)
            record = await self._references.record(resource, self._image)
        except CrdsError as exc:
            return await self._serving.refuse(subject, problem_of(exc))
        return await self._serving.converge(subject, resource, record)
