"""How a live HTTPRoute divides requests, read back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.builders import START, an_owner

from podium_crds.gateway import GatewayRoute
from podium_operator.resources.route import http_route, read_route
from podium_operator.resources.service import pool_service
from podium_operator.state import Backends

WANTED = GatewayRoute.model_validate({"parentRefs": [{"name": "public"}], "path": "/m"})
SPLIT = Backends(3, {"minilm-0": 7, "minilm-12": 0})


def live(generation: int = 2, **said: tuple[str, int]) -> dict[str, Any]:
    """A live route; `said`: condition → status and observedGeneration, of one Gateway."""
    manifest = http_route(an_owner(), WANTED, SPLIT, START)
    conditions = [
        {"type": kind, "status": status, "observedGeneration": observed} for kind, (status, observed) in said.items()
    ]
    manifest["metadata"]["generation"] = generation
    if conditions:
        manifest["status"] = {"parents": [{"parentRef": {"name": "public"}, "conditions": conditions}]}
    return manifest


@given(st.integers(1, 900), st.dictionaries(st.integers(0, 999).map("minilm-{}".format), st.integers(0, 900)))
def test_backends_are_read_back_as_they_were_written(service: int, pools: dict[str, int]) -> None:
    written = Backends(service, pools)
    found = read_route(an_owner(), http_route(an_owner(), WANTED, written, START))
    assert (found.backends, found.since) == (written, START)


def test_every_rule_divides_alike_and_names_services_that_exist() -> None:
    rules = live()["spec"]["rules"]
    assert len({str(rule["backendRefs"]) for rule in rules}) == 1
    named = {each["name"]: each["port"] for each in rules[0]["backendRefs"]}
    service = pool_service(an_owner(), "minilm-0")
    assert named[service["metadata"]["name"]] == service["spec"]["ports"][0]["port"]
    assert service["spec"]["selector"] == {"podium.dev/pool": "minilm-0"}


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ({}, True),  # nobody routes it
        ({"Accepted": ("True", 2), "ResolvedRefs": ("True", 2)}, True),
        ({"Accepted": ("True", 1), "ResolvedRefs": ("True", 1)}, False),
        ({"Accepted": ("True", 2), "ResolvedRefs": ("True", 1)}, False),
        ({"Accepted": ("True", 2), "ResolvedRefs": ("False", 2)}, False),  # it does not know a Service yet
        ({"Accepted": ("False", 2), "ResolvedRefs": ("False", 2)}, True),  # it sends nothing here
        ({"Accepted": ("False", 1)}, False),
        ({"ResolvedRefs": ("True", 2)}, False),
    ],
)
def test_a_gateway_has_answered_once_it_speaks_of_the_route_as_it_is(
    said: dict[str, tuple[str, int]], answered: bool
) -> None:
    assert read_route(an_owner(), live(**said)).answered == answered
