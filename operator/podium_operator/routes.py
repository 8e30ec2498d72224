"""The HTTPRoute of a resource, where `exposure.gateway` asks for one: read, written and removed.

Read in every pass rather than watched, so that the operator needs neither the Gateway API's definitions when it starts
nor the right to list every route. Nothing here stops a pass: what is wrong with a route is told by its condition.
"""

import contextlib

from podium_crds.gateway import GatewayRoute
from podium_crds.meta import ConditionStatus
from podium_crds.reasons import Reason
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import Conflict, Forbidden, Invalid, NotFound
from podium_operator.kube.kinds import Ref, ref
from podium_operator.logs import get_logger
from podium_operator.ownership import NotOursError, refuse_foreign
from podium_operator.resources import names
from podium_operator.resources.hashing import stamped
from podium_operator.resources.labels import controlled_by
from podium_operator.resources.route import contains, http_route
from podium_operator.state import Owner, Problem, Routed
from podium_operator.status.routed import pending, refused, routed

log = get_logger(__name__)

_MISSING = (
    "the API server knows no HTTPRoute (gateway.networking.k8s.io/v1): install the Gateway API, 1.0 or later, standard "
    "channel, and a controller for it; or remove exposure.gateway"
)
_FORBIDDEN = "the operator may not manage HTTPRoutes: set the Helm value operator.gatewayApi to true"


class Routes:
    """Borrows the client. Holds nothing between passes."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def bring(
        self, owner: Owner, wanted: GatewayRoute | None, before: Routed | None, *, has_service: bool
    ) -> Routed | None:
        """Bring the route to what is asked for; what is to be said of it, None where nothing is.

        `before`: what status said. A route is said to be wanted before it is made, so that an operator that takes over
        knows that there may be one to remove. Raises KubeError where the API server does not answer.
        """
        if wanted is None and before is None:
            return None
        try:
            if wanted is None:
                await self._remove(owner)
                return None
            if before is None or not has_service:
                return pending("the Service comes first")
            return routed(wanted, await self._written(owner, http_route(owner, wanted)))
        except NotFound:
            return refused(Problem(Reason.GATEWAY_API_UNAVAILABLE, _MISSING))
        except Forbidden as exc:
            if wanted is None:
                # Whoever took the right away has to look after what was made with it: see docs/gateways.md.
                log.warning("route_may_be_left", name=owner.resource.name, cause=str(exc))
                return None
            return refused(Problem(Reason.GATEWAY_API_UNAVAILABLE, f"{_FORBIDDEN} ({exc})"))
        except (NotOursError, Invalid) as exc:
            return refused(Problem(Reason.ROUTE_REJECTED, str(exc)))
        except Conflict as exc:
            return pending(str(exc))

    async def _written(self, owner: Owner, manifest: Manifest) -> Manifest:
        """The live route, applied first unless it holds everything already."""
        manifest = stamped(manifest)
        live = await self._found(ref(manifest))
        if live is not None:
            refuse_foreign(live, owner)
            if contains(live, manifest):
                return live
        applied = await self._client.apply(manifest)
        log.info("route_applied", namespace=owner.resource.namespace, name=manifest["metadata"]["name"])
        return applied

    async def _found(self, wanted: Ref) -> Manifest | None:
        """The live route, or None. Raises NotFound where the API server does not know the kind."""
        try:
            return await self._client.get(wanted)
        except NotFound as exc:
            if not exc.details.get("name"):
                raise
            return None

    async def _remove(self, owner: Owner) -> None:
        wanted = Ref("HTTPRoute", owner.resource.namespace, names.http_route(owner.resource.name))
        live = await self._found(wanted)
        if live is None or not controlled_by(live, owner.uid):
            return
        with contextlib.suppress(NotFound):
            await self._client.delete(wanted, uid=live["metadata"]["uid"])
        log.info("route_removed", namespace=wanted.namespace, name=wanted.name)


def is_settled(found: Routed | None) -> bool:
    """Whether nothing more is expected soon."""
    return found is None or found.status is ConditionStatus.TRUE or found.reason is Reason.GATEWAY_API_UNAVAILABLE
