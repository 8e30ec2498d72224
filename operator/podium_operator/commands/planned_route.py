"""The HTTPRoute's part of `podium plan`: what would be made, changed or removed, read with the user's own rights."""

from collections.abc import Mapping
from dataclasses import dataclass

from podium_crds.gateway import GatewayRoute
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import Conflict, Forbidden, NotFound
from podium_operator.ownership import NotOursError, refuse_foreign
from podium_operator.resources.labels import controlled_by
from podium_operator.resources.route import contains, http_route, in_words, read_route
from podium_operator.routes import found_route
from podium_operator.state import Backends, ObservedRoute, Owner

_NO_API = "none: the cluster knows no HTTPRoute (gateway.networking.k8s.io/v1)"
_NO_RIGHT = "unknown: you may not read HTTPRoutes here"


@dataclass(frozen=True, slots=True)
class LiveRoute:
    """What there is under the name of the resource's route."""

    live: Manifest | None = None
    """None: nothing, or nothing that can be read."""
    observed: ObservedRoute | None = None
    """How it divides requests, where it is the resource's own."""
    unclear: str = ""
    """Why it cannot be said what is there, or nothing can be made."""


async def look(client: KubeClient, owner: Owner) -> LiveRoute:
    """The route as it is. Raises KubeError where the API server does not answer."""
    try:
        live = await found_route(client, owner)
    except NotFound:
        return LiveRoute(unclear=_NO_API)
    except Forbidden:
        return LiveRoute(unclear=_NO_RIGHT)
    is_ours = live is not None and controlled_by(live, owner.uid)
    return LiveRoute(live, read_route(owner, live) if live is not None and is_ours else None)


def announced(owner: Owner, wanted: GatewayRoute | None, found: LiveRoute, backends: Backends | None) -> list[str]:
    """What would become of the route, a fact each; none where it stays as it is. `backends` None: those it has."""
    if wanted is None:
        if found.observed is None:
            return [found.unclear] if found.unclear == _NO_RIGHT else []
        return ["removed: clients of its Gateways get no answer any more"]
    if found.unclear:
        return [found.unclear]
    had = found.observed.backends if found.observed is not None else Backends()
    since = found.observed.since if found.observed is not None else None
    manifest = http_route(owner, wanted, had if backends is None else backends, since)
    if found.live is None:
        return [f"new: {', '.join(f'{what} {how}' for what, how in in_words(manifest).items())}"]
    try:
        refuse_foreign(found.live, owner)
    except (NotOursError, Conflict) as exc:
        return [f"none: {exc}"]
    return _changed(found.live, manifest)


def _changed(live: Manifest, manifest: Manifest) -> list[str]:
    before: Mapping[str, str] = in_words(live)
    lines = [f"{what}: {before[what]} → {how}" for what, how in in_words(manifest).items() if before[what] != how]
    if not lines and not contains(live["spec"], manifest["spec"]):
        return ["what others have changed in it is put right"]
    return lines
