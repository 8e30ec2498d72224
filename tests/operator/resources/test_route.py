"""The HTTPRoute of a resource, and how a live one is compared with it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.builders import an_owner

from podium_crds.gateway import GatewayRoute
from podium_operator.resources.route import contains, http_route
from podium_operator.resources.service import service

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


def a_route(**gateway: Any) -> GatewayRoute:
    return GatewayRoute.model_validate({"parentRefs": [{"name": "public"}], **gateway})


def rules(**gateway: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http_route(an_owner(), a_route(**gateway))["spec"]["rules"]
    return found


def paths(**gateway: Any) -> list[str]:
    return [match["path"]["value"] for rule in rules(**gateway) for match in rule["matches"]]


def test_a_route_leads_to_the_port_of_the_service_that_speaks_http() -> None:
    stable = service(an_owner(), grpc=True)
    ports = {port["name"]: port["port"] for port in stable["spec"]["ports"]}
    for rule in rules():
        [backend] = rule["backendRefs"]
        assert (backend["kind"], backend["name"]) == ("Service", stable["metadata"]["name"])
        assert backend["port"] == ports["http"]
        assert "namespace" not in backend  # another one would need a ReferenceGrant


def test_inference_alone_is_routed() -> None:
    assert paths() == ["/v1", "/v2", "/rpc"]
    assert not any("filters" in rule for rule in rules())


def test_a_path_is_taken_off_before_the_pods_see_it() -> None:
    assert paths(path="/teams/search") == ["/teams/search/v1", "/teams/search/v2", "/teams/search/rpc"]
    rewritten = [rule["filters"][0]["urlRewrite"]["path"] for rule in rules(path="/teams/search")]
    assert [each["replacePrefixMatch"] for each in rewritten] == ["/v1", "/v2", "/rpc"]
    assert {each["type"] for each in rewritten} == {"ReplacePrefixMatch"}


def test_parents_and_hosts_are_those_that_are_asked_for() -> None:
    spec = http_route(
        an_owner(),
        a_route(
            parentRefs=[{"name": "public", "namespace": "infra", "sectionName": "https"}, {"name": "private"}],
            hostnames=["models.example.com", "*.example.org"],
        ),
    )["spec"]
    ours = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    assert spec["parentRefs"] == [
        {**ours, "name": "public", "namespace": "infra", "sectionName": "https"},
        {**ours, "name": "private"},
    ]
    assert spec["hostnames"] == ["models.example.com", "*.example.org"]
    assert "hostnames" not in http_route(an_owner(), a_route())["spec"]


@given(JSON)
def test_what_is_wanted_contains_itself(value: object) -> None:
    assert contains(value, value)


@given(st.dictionaries(st.text(max_size=2), JSON, max_size=3), st.text(min_size=3, max_size=4), JSON)
def test_fields_that_others_add_are_no_drift_and_those_that_are_gone_are(
    wanted: dict[str, object], key: str, added: object
) -> None:
    assert contains({**wanted, key: added}, wanted)
    assert not contains(wanted, {**wanted, key: added})


@pytest.mark.parametrize(
    ("live", "wanted"),
    [({"a": [1]}, {"a": [1, 2]}), ({"a": [1, 2]}, {"a": [1]}), ({"a": 1}, {"a": 2}), ({"a": None}, {"a": {}})],
)
def test_a_changed_value_and_a_list_of_another_length_are_drift(live: object, wanted: object) -> None:
    assert not contains(live, wanted)
