"""What is said of an HTTPRoute, from what its Gateways answered."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_crds.gateway import GatewayRoute
from podium_crds.meta import ConditionStatus
from podium_crds.reasons import Reason
from podium_operator.status.routed import routed

GENERATION = 3


def answer(name: str = "public", generation: int = GENERATION, **conditions: str) -> dict[str, Any]:
    """An entry of status.parents, all well but for `conditions`."""
    said = {"Accepted": "True", "ResolvedRefs": "True", **conditions}
    return {
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name},
        "controllerName": "example.com/gateway",
        "conditions": [
            {"type": kind, "status": status, "reason": "Because", "message": "so", "observedGeneration": generation}
            for kind, status in said.items()
        ],
    }


def live(*answers: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "minilm", "namespace": "default", "generation": GENERATION},
        "status": {"parents": list(answers)},
    }


def wanted(*parents: str, **gateway: Any) -> GatewayRoute:
    return GatewayRoute.model_validate({"parentRefs": [{"name": name} for name in parents or ("public",)], **gateway})


def test_a_route_is_accepted_once_every_gateway_says_so() -> None:
    found = routed(wanted("public", "private", hostnames=["a.example"], path="/m"), live(answer(), answer("private")))
    assert (found.status, found.reason) == (ConditionStatus.TRUE, Reason.ROUTE_ACCEPTED)
    assert found.message == "Gateway default/public, Gateway default/private routes a.example/m to it"


def test_a_gateway_that_nobody_answers_for_is_named() -> None:
    found = routed(wanted("public", "lost"), live(answer()))
    assert (found.status, found.reason) == (ConditionStatus.UNKNOWN, Reason.ROUTE_PENDING)
    assert "Gateway default/lost: does it exist" in found.message
    assert routed(wanted(), {"metadata": live()["metadata"]}).status is ConditionStatus.UNKNOWN


def test_an_answer_to_an_earlier_generation_is_none() -> None:
    found = routed(wanted(), live(answer(generation=GENERATION - 1)))
    assert found.status is ConditionStatus.UNKNOWN
    assert routed(wanted(), live(answer(generation=GENERATION - 1, Accepted="False"))).status is found.status


@pytest.mark.parametrize("kind", ["Accepted", "ResolvedRefs"])
@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_refusal_is_told_in_the_gateways_words(kind: str, status: str) -> None:
    found = routed(wanted(), live(answer(**{kind: status})))
    assert (found.status, found.reason) == (ConditionStatus.FALSE, Reason.ROUTE_REJECTED)
    assert found.message == f"Gateway default/public: {kind} is {status} (Because): so"


def test_a_refusal_outweighs_what_is_not_known_and_that_what_is_well() -> None:
    for names in permutations(["well", "refused", "silent"]):
        said = live(answer("well"), answer("refused", Accepted="False"))
        assert routed(wanted(*names), said).status is ConditionStatus.FALSE
        assert routed(wanted(*(name for name in names if name != "refused")), said).status is ConditionStatus.UNKNOWN


def test_a_gateway_of_another_namespace_or_another_listener_is_another() -> None:
    route = GatewayRoute.model_validate({"parentRefs": [{"name": "g", "namespace": "infra", "sectionName": "https"}]})
    entry = answer("g")
    assert routed(route, live(entry)).status is ConditionStatus.UNKNOWN
    entry["parentRef"]["namespace"] = "infra"
    assert routed(route, live(entry)).status is ConditionStatus.UNKNOWN
    entry["parentRef"]["sectionName"] = "https"
    found = routed(route, live(entry))
    assert found.status is ConditionStatus.TRUE
    assert "Gateway infra/g (listener https)" in found.message


@given(st.lists(st.sampled_from(["True", "False", "Unknown"]), min_size=2, max_size=2), st.integers(1, GENERATION))
def test_a_route_is_true_only_where_all_is_true_and_of_now(statuses: list[str], generation: int) -> None:
    accepted, resolved = statuses
    found = routed(wanted(), live(answer(generation=generation, Accepted=accepted, ResolvedRefs=resolved)))
    all_well = statuses == ["True", "True"] and generation == GENERATION
    assert (found.status is ConditionStatus.TRUE) == all_well


def test_of_two_controllers_that_answer_for_one_gateway_both_must_accept() -> None:
    assert routed(wanted(), live(answer(), answer(Accepted="False"))).status is ConditionStatus.FALSE
