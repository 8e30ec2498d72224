"""The HTTPRoute of a resource, where `exposure.gateway` asks for one: read, written and removed.

Read in every pass rather than watched, so that the operator needs neither the Gateway API's definitions when it starts
nor the right to list every route. Nothing here stops a pass: what is wrong with a route is told by its condition.
"""

from dataclasses import dataclass
from datetime import datetime

from podium_crds.gateway import GatewayRoute
from podium_crds.meta import ConditionStatus
from podium_crds.reasons import Reason
from podium_operator.errors import OperatorError
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound, TooMany, Unavailable
from podium_operator.kube.kinds import Ref, ref
from podium_operator.logs import get_logger
from podium_operator.ownership import NotOursError, refuse_foreign
from podium_operator.resources import names
from podium_operator.resources.hashing import stamped
from podium_operator.resources.labels import controlled_by
from podium_operator.resources.route import contains, http_route, read_route
from podium_operator.state import Backends, ObservedRoute, Owner, Problem, Routed
from podium_operator.status.routed import pending, refused, routed

log = get_logger(__name__)

_MISSING = (
    "the API server knows no HTTPRoute (gateway.networking.k8s.io/v1): install the Gateway API, 1.0 or later, standard "
    "channel, and a controller for it; or remove exposure.gateway"
)
_REFUSALS = (NotFound, Forbidden, Conflict, Invalid, NotOursError)
_FORBIDDEN = "the operator may not manage HTTPRoutes: set the Helm value operator.gatewayApi to true"


@dataclass(frozen=True, slots=True)
class Seen:
    """The route at the start of a pass."""

    live: Manifest | None = None
    route: ObservedRoute | None = None
    told: Routed | None = None
    """What is to be said where nothing can be done, or not yet."""


class Routes:
    """Borrows the client. Holds nothing between passes."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def look(
        self, owner: Owner, wanted: GatewayRoute | None, before: Routed | None, *, has_service: bool
    ) -> Seen:
        """The route as it is. `before`: what status said.

        A route is said to be wanted before it is made, so that an operator that takes over knows that there may be one
        to remove. Raises KubeError where the API server does not answer.
        """
        if wanted is None and before is None:
            return Seen()
        try:
            live = await found_route(self._client, owner)
            if live is not None and wanted is not None:
                refuse_foreign(live, owner)
        except _REFUSALS as exc:
            return Seen(told=_told(exc))
        is_too_early = live is None and (before is None or not has_service)
        told = pending("the route is about to be made") if is_too_early else None
        is_ours = live is not None and controlled_by(live, owner.uid)
        return Seen(live, read_route(owner, live) if live is not None and is_ours else None, told)

    async def bring(
        self, owner: Owner, wanted: GatewayRoute | None, seen: Seen, backends: Backends | None, now: datetime
    ) -> Routed | None:
        """Bring the route to what is asked for; what is to be said of it, None where nothing is.

        `backends` None: those that it has. Raises nothing of the API server's: a webhook of a controller that is away
        must not keep a rollout from going on.
        """
        if wanted is None:
            return await self._removed(owner, seen)
        if seen.told is not None:
            return seen.told
        had = seen.route.backends if seen.route is not None else Backends()
        divided = had if backends is None else backends
        since = seen.route.since if seen.route is not None and divided == had else now
        manifest = stamped(http_route(owner, wanted, divided, since))
        if seen.live is not None and contains(seen.live, manifest):
            return routed(wanted, seen.live)
        try:
            live = await self._client.apply(manifest)
        except (KubeError, NotOursError) as exc:
            return _told(exc)
        weights = {"service": divided.service, **divided.pools}
        log.info("route_applied", namespace=owner.resource.namespace, name=owner.resource.name, weights=weights)
        return routed(wanted, live)

    async def _removed(self, owner: Owner, seen: Seen) -> Routed | None:
        """Remove what is ours; None once it is gone."""
        if seen.told is not None and seen.told.reason is Reason.GATEWAY_API_UNAVAILABLE:
            # Whoever took the right away has to look after what was made with it: see docs/gateways.md.
            log.warning("route_may_be_left", name=owner.resource.name, cause=seen.told.message)
        if seen.live is None or seen.route is None:
            return None
        wanted = ref(seen.live)
        try:
            await self._client.delete(wanted, uid=seen.live["metadata"]["uid"])
        except NotFound:
            return None
        except KubeError as exc:
            return _told(exc)
        log.info("route_removed", namespace=wanted.namespace, name=wanted.name)
        return None


async def found_route(client: KubeClient, owner: Owner) -> Manifest | None:
    """The live HTTPRoute of that name, whoever's it is, or None. Raises NotFound where the API server does not know the
    kind, and KubeError otherwise."""
    try:
        return await client.get(Ref("HTTPRoute", owner.resource.namespace, names.http_route(owner.resource.name)))
    except NotFound as exc:
        if not exc.details.get("name"):
            raise
        return None


def _told(exc: OperatorError) -> Routed:
    match exc:
        case NotFound():
            return refused(Problem(Reason.GATEWAY_API_UNAVAILABLE, _MISSING))
        case Forbidden():
            return refused(Problem(Reason.GATEWAY_API_UNAVAILABLE, f"{_FORBIDDEN} ({exc})"))
        case Conflict() | Unavailable() | TooMany():
            return pending(str(exc))
        case _:
            return refused(Problem(Reason.ROUTE_REJECTED, str(exc)))


def is_settled(found: Routed | None) -> bool:
    """Whether nothing more is expected soon."""
    return found is None or found.status is ConditionStatus.TRUE or found.reason is Reason.GATEWAY_API_UNAVAILABLE
