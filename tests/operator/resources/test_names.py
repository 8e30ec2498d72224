"""Names of children."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_operator.resources import names

RESOURCE = st.from_regex(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


@given(RESOURCE, st.integers(0, 999))
def test_a_pool_s_name_fits_and_gives_its_ordinal_back(resource: str, ordinal: int) -> None:
    name = names.pool(resource, ordinal)
    assert len(name) <= names.MAX_NAME
    assert names.ordinal(resource, name) == ordinal


@given(RESOURCE)
def test_every_child_s_name_fits(resource: str) -> None:
    assert len(names.admin_key(resource)) <= names.MAX_NAME
    assert len(names.disruption_budget(resource)) <= names.MAX_NAME


@pytest.mark.parametrize("name", ["minilm", "minilm-x", "minilm-01", "other-0", "minilm-0-0"])
def test_another_name_is_no_pool_of_the_resource(name: str) -> None:
    assert names.ordinal("minilm", name) is None


def test_too_long_names_stay_apart() -> None:
    assert names.bounded("a" * 70, "0") != names.bounded("a" * 71, "0")
