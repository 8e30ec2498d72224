"""How a resource asks to be reached through gateways of the Gateway API: what its HTTPRoute says. No revision changes
with it."""

from itertools import combinations
from typing import Annotated, ClassVar

from pydantic import Field

from podium_crds.base import DnsLabel, Form, ObjectName, Rule, Ruled, Strict

MAX_PARENTS = 8
MAX_HOSTNAMES = 16

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

Hostname = Annotated[
    str,
    Form(
        rf"^([*][.])?({_LABEL}[.])*[a-z]([-a-z0-9]{{0,61}}[a-z0-9])?$",
        "a host name in lower-case letters without scheme or port, such as models.example.com or *.example.com",
    ),
    Field(max_length=253),
]
"""As HTTPRoutes take them: no address, one wildcard as the first label at most."""


class GatewayParent(Strict):
    """A Gateway that the HTTPRoute asks to be attached to."""

    name: ObjectName
    """Name of the Gateway."""
    namespace: DnsLabel | None = None
    """Its namespace; a listener of it must allow routes from this one. Absent: that of the resource."""
    section_name: ObjectName | None = None
    """Name of the one listener to attach to. Absent: all that allow it."""


def _apart(one: GatewayParent, other: GatewayParent) -> bool:
    """Whether an HTTPRoute may name both: other Gateways, or other listeners of one."""
    if (one.name, one.namespace) != (other.name, other.namespace):
        return True
    return None not in (one.section_name, other.section_name) and one.section_name != other.section_name


class GatewayRoute(Ruled):
    """The HTTPRoute that brings requests from Gateways to the Service of the resource."""

    parent_refs: Annotated[tuple[GatewayParent, ...], Field(min_length=1, max_length=MAX_PARENTS)]
    """Gateways to attach to."""
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=MAX_HOSTNAMES)] = ()
    """Hosts whose requests are meant. None: all that the listeners take."""
    path: (
        Annotated[
            str,
            Form(
                r"^(/[A-Za-z0-9_~][-A-Za-z0-9._~]*)+$",
                "a path that begins with '/' and ends with none, such as /minilm or /teams/search",
            ),
            Field(max_length=256),
        ]
        | None
    ) = None
    """Prefix of the paths that are meant, taken off before the pods see them: with /minilm, clients ask
    /minilm/v1/models/…. Absent: /v1, /v2 and /rpc, as they are."""
    weights: bool = False
    """Whether, in a Surge in steps, Gateways give the new revision exactly the share of its step: part of the requests
    goes straight to the pods of one revision, while two of them at least are ready. Without, and for clients of the
    Service, the share is that of its pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.parentRefs.all(p, self.parentRefs.exists_one(q, q.name == p.name && "
            "has(q.__namespace__) == has(p.__namespace__) && (!has(q.__namespace__) || "
            "q.__namespace__ == p.__namespace__) && "
            "(!has(q.sectionName) || !has(p.sectionName) || q.sectionName == p.sectionName)))",
            message="parentRefs names a Gateway twice: remove one, or give each a sectionName of its own",
            holds=lambda route: all(_apart(*pair) for pair in combinations(route.parent_refs, 2)),
        ),
        Rule(
            cel="!has(self.hostnames) || self.hostnames.all(h, self.hostnames.filter(g, g == h).size() == 1)",
            message="hostnames names a host twice: remove one",
            holds=lambda route: len(set(route.hostnames)) == len(route.hostnames),
        ),
    )
