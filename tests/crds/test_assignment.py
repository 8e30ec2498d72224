"""The contract between operator and pod: order of generations, and readers of another release."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from podium_crds.assignment import Assignment, Generation, Report, ResourceKind, ResourceRef

generations = st.builds(Generation, transitions=st.integers(0, 5), sequence=st.integers(0, 5))


@given(generations, generations)
def test_a_later_leader_wins_over_any_count_of_an_earlier_one(one: Generation, other: Generation) -> None:
    if one.transitions != other.transitions:
        assert (one < other) == (one.transitions < other.transitions)
    else:
        assert (one < other) == (one.sequence < other.sequence)


@given(st.lists(generations, max_size=6))
def test_generations_are_in_one_order(found: list[Generation]) -> None:
    ordered = sorted(found)
    assert all(left <= right for left, right in pairwise(ordered))


def test_a_reader_ignores_keys_of_a_later_release() -> None:
    written = Assignment(
        generation=Generation(sequence=1), resource=ResourceRef(kind=ResourceKind.MODEL, name="echo")
    ).wire()
    written["newKey"] = {"a": 1}
    written["resource"]["newKey"] = 1
    assert Assignment.model_validate(written).resource.name == "echo"


def test_a_report_says_which_schema_versions_its_pod_speaks() -> None:
    report = Report.model_validate({"runtimeVersion": "0.1", "podUid": "u", "schemaVersions": [1, 2]})
    assert report.schema_versions == (1, 2)


@pytest.mark.parametrize("weight", [-1, 101])
def test_a_weight_is_a_percentage(weight: int) -> None:
    with pytest.raises(ValidationError):
        Assignment.model_validate(
            {
                "generation": {},
                "resource": {"kind": "InferenceModel", "name": "echo"},
                "traffic": [{"revision": "r", "weight": weight}],
            }
        )
