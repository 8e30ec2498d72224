"""Rules across fields, as Python runs them. That the API server agrees: tests/integration."""

import pytest
from tests.crds.builders import JsonObject
from tests.crds.refused import REFUSED, Refused

from podium_crds.errors import ResourceError
from podium_crds.parse import parse_resource


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_resource_is_refused_with_what_to_write_instead(case: Refused) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_resource(case.document)
    assert case.message in str(caught.value)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_resource_without_the_fault_is_accepted(case: Refused) -> None:
    repaired: JsonObject = case.repaired
    assert parse_resource(repaired).metadata.name == repaired["metadata"]["name"]
