"""What `podium plan` says of the HTTPRoute."""

from typing import Any

from tests.support.builders import START, a_desired, an_owner

from podium_crds.gateway import GatewayRoute
from podium_operator.commands.planned_route import LiveRoute, announced
from podium_operator.commands.planning import Planned, told
from podium_operator.resources.route import http_route, read_route
from podium_operator.rollout.planner import plan
from podium_operator.state import Backends, Facts, Observed, Stage


def wanted(**gateway: Any) -> GatewayRoute:
    parent = {"name": "public", "namespace": "infra", "sectionName": "https"}
    return GatewayRoute.model_validate({"parentRefs": [parent], "path": "/minilm", **gateway})


def there(route: GatewayRoute, backends: Backends | None = None) -> LiveRoute:
    """As the operator has made it."""
    live = http_route(an_owner(), route, backends or Backends(), START)
    live["metadata"]["generation"] = 1
    return LiveRoute(live, read_route(an_owner(), live))


def test_a_new_route_is_told_with_its_gateways_hosts_and_paths() -> None:
    [line] = announced(an_owner(), wanted(hostnames=["a.example"]), LiveRoute(), None)
    assert line == (
        "new: Gateways infra/public (listener https), hosts a.example, paths /minilm/v1, /minilm/v2, /minilm/rpc, "
        "Services minilm"
    )


def test_a_route_that_stays_as_it_is_is_not_told() -> None:
    divided = Backends(3, {"minilm-0": 7})
    assert announced(an_owner(), wanted(), there(wanted(), divided), None) == []
    assert announced(an_owner(), None, LiveRoute(), None) == []


def test_what_changes_is_told_before_and_after() -> None:
    found = there(wanted())
    assert announced(an_owner(), wanted(hostnames=["b.example"]), found, None) == [
        "hosts: all of the listeners → b.example"
    ]
    assert announced(an_owner(), wanted(), found, Backends(3, {"minilm-0": 7})) == [
        "Services: minilm → minilm 3, minilm-0-pool 7"
    ]


def test_what_others_changed_is_put_right() -> None:
    found = there(wanted())
    assert found.live is not None
    found.live["spec"]["rules"][0]["filters"] = []
    assert announced(an_owner(), wanted(), found, None) == ["what others have changed in it is put right"]


def test_a_route_that_is_asked_for_no_longer_is_removed_if_it_is_the_resource_s_own() -> None:
    assert announced(an_owner(), None, there(wanted()), None) == [
        "removed: clients of its Gateways get no answer any more"
    ]
    foreign = there(wanted()).live
    assert announced(an_owner(), None, LiveRoute(foreign), None) == []


def test_a_route_of_somebody_else_is_in_the_way() -> None:
    foreign = there(wanted()).live
    assert foreign is not None
    foreign["metadata"]["ownerReferences"] = []
    [line] = announced(an_owner(), wanted(), LiveRoute(foreign), None)
    assert line.startswith("none: ")
    assert "does not own it" in line


def test_the_route_is_told_beside_the_pods() -> None:
    route = ("hosts: a → b",)
    facts = plan(Observed(), a_desired(), START).facts
    assert told(Planned("minilm", facts, is_known=False, route=route)).splitlines() == [
        f"minilm: new; revision {facts.target} starts, all replicas at once",
        "  route       hosts: a → b",
    ]
    done = Facts(Stage.SETTLED, "minilm-1", "minilm-1", available=True, complete=True)
    assert told(Planned("minilm", done)) == "minilm: nothing would change, minilm-1 serves"
    assert told(Planned("minilm", done, route=route)) == (
        "minilm: no pod would change, minilm-1 serves\n  route       hosts: a → b"
    )
