"""Who answers: an immutable `RouteTable`, pinned by each request at admission, and the exact split by weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from math import gcd
from types import MappingProxyType

from podium.serving.revisions.errors import NotReadyError, UnknownModelError
from podium.serving.revisions.live import LiveRevision
from podium_crds.assignment import ResourceKind, ResourceRef

RouteKey = tuple[ResourceKind, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A revision that takes traffic, and its share."""

    revision: LiveRevision
    weight: int


@dataclass(frozen=True)
class Route:
    """How requests for one resource are spread. No targets: known, but nothing can answer yet."""

    resource: ResourceRef
    targets: tuple[Target, ...] = ()
    loaded: tuple[LiveRevision, ...] = ()
    """Every revision that can answer when asked for by version, targets first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_round", interleaved(self.targets))
        object.__setattr__(self, "_turn", count())

    _round: tuple[LiveRevision, ...] = ()
    _turn: "count[int]" = count()  # noqa: RUF009 - replaced for each route above

    @property
    def primary(self) -> LiveRevision | None:
        """The target with the largest share."""
        return max(self.targets, key=lambda target: target.weight).revision if self.targets else None

    def next(self) -> LiveRevision:
        """The revision whose turn it is: each gets exactly its weight in every round. Raises NotReadyError."""
        if not self._round:
            raise NotReadyError(f"{self.resource.name} has no revision that is ready yet; ask again in a moment", 1.0)
        return self._round[next(self._turn) % len(self._round)]

    def of_version(self, version: str) -> LiveRevision:
        """The loaded revision of that version, targets first. Raises UnknownModelError."""
        for revision in self.loaded:
            if revision.spec.version == version:
                return revision
        known = ", ".join(dict.fromkeys(revision.spec.version for revision in self.loaded)) or "none"
        raise UnknownModelError(f"{self.resource.name} has no version {version!r} loaded; loaded: {known}")


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes of this process at one moment. Replaced as a whole, never changed."""

    routes: Mapping[RouteKey, Route]

    @classmethod
    def empty(cls) -> "RouteTable":
        """Knows nothing."""
        return cls(MappingProxyType({}))

    def with_route(self, route: Route) -> "RouteTable":
        """A table in which this route replaces the one of its resource."""
        key = (route.resource.kind, route.resource.name)
        return RouteTable(MappingProxyType({**self.routes, key: route}))

    def without(self, resource: ResourceRef) -> "RouteTable":
        """A table that does not know the resource."""
        gone = (resource.kind, resource.name)
        return RouteTable(MappingProxyType({key: route for key, route in self.routes.items() if key != gone}))

    def find(self, name: str, *kinds: ResourceKind) -> Route:
        """The route of that name, kinds tried in order. Raises UnknownModelError, which lists what is served."""
        for kind in kinds:
            if route := self.routes.get((kind, name)):
                return route
        served = ", ".join(sorted(other for kind, other in self.routes if kind in kinds)) or "nothing"
        noun = "model" if ResourceKind.MODEL in kinds else "pipeline"
        raise UnknownModelError(f"no {noun} {name[:80]!r} here; served: {served}")


class Router:
    """Holds the table in force. Replacing it is one assignment: a request sees the old or the new, never a mixture."""

    def __init__(self) -> None:
        self.table = RouteTable.empty()

    def publish(self, route: Route) -> None:
        """Puts a route in force for every request admitted from now on."""
        self.table = self.table.with_route(route)

    def withdraw(self, resource: ResourceRef) -> None:
        """Forgets a resource."""
        self.table = self.table.without(resource)


def interleaved(targets: tuple[Target, ...]) -> tuple[LiveRevision, ...]:
    """One round in which each target appears as often as its weight says, spread evenly (smooth weighted round-robin,
    as in nginx)."""
    live = [target for target in targets if target.weight > 0]
    if not live:
        return ()
    divisor = gcd(*(target.weight for target in live))
    weights = [target.weight // divisor for target in live]
    total, credit, turns = sum(weights), [0] * len(live), []
    for _ in range(total):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= total
        turns.append(live[chosen].revision)
    return tuple(turns)
