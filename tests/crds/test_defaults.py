"""Canonical specs: one form for all that means the same."""

from copy import deepcopy
from random import Random
from typing import Annotated

from hypothesis import given
from hypothesis import strategies as st
from tests.crds.builders import JsonObject, a_model, model
from tests.crds.specs import models

from podium_crds.base import Introduced, Strict, canonical_json
from podium_crds.defaults import canonical
from podium_crds.parse import parse_resource

UNORDERED = ("tolerations", "topologySpreadConstraints", "imagePullSecrets", "volumes", "volumeMounts")


def test_a_spec_of_defaults_says_only_what_was_required() -> None:
    assert canonical(model().spec) == {
        "source": {"uri": "s3://models/echo/1"},
        "engine": "Python",
        "python": {"entrypoint": "echo:Echo"},
    }


@given(models)
def test_spelling_every_default_out_changes_nothing(document: JsonObject) -> None:
    resource = parse_resource(document)
    spelled_out = parse_resource(resource.wire())
    assert canonical(spelled_out.spec) == canonical(resource.spec)


@given(models)
def test_the_canonical_form_is_a_spec_whose_canonical_form_it_is(document: JsonObject) -> None:
    first = canonical(parse_resource(document).spec)
    second = canonical(parse_resource(a_model() | {"spec": first}).spec)
    assert canonical_json(second) == canonical_json(first)


@given(models, st.randoms(use_true_random=False))
def test_the_order_of_lists_and_keys_that_says_nothing_changes_nothing(document: JsonObject, random: Random) -> None:
    shuffled = deepcopy(document)
    spec = shuffled["spec"]
    for field in UNORDERED:
        random.shuffle(spec.get(field, []))
    keys = list(spec)
    random.shuffle(keys)
    shuffled["spec"] = {key: spec[key] for key in keys}
    before, after = canonical(parse_resource(document).spec), canonical(parse_resource(shuffled).spec)
    assert canonical_json(before) == canonical_json(after)


def test_quantities_are_compared_by_value() -> None:
    written = [{"memory": "4Gi", "cpu": "500m"}, {"memory": "4096Mi", "cpu": "0.5"}, {"memory": 4 << 30, "cpu": "500m"}]
    forms = {canonical_json(canonical(model(resources={"limits": limits}).spec)) for limits in written}
    assert len(forms) == 1


def test_environment_is_sorted_only_where_no_value_refers_to_another() -> None:
    plain = [{"name": "B", "value": "x"}, {"name": "A", "value": "y"}]
    linked = [{"name": "B", "value": "x"}, {"name": "A", "value": "$(B)"}]
    assert canonical(model(env=plain).spec) == canonical(model(env=plain[::-1]).spec)
    assert canonical(model(env=linked).spec) != canonical(model(env=linked[::-1]).spec)


def test_whole_floats_are_written_as_the_api_server_returns_them() -> None:
    assert canonical_json({"b": 1.0, "a": [2.0, 2.5]}) == '{"a":[2,2.5],"b":1}'


class _Inner(Strict):
    """As a later release might have it: `delay` came with 0, and is 5 now; `pace` was added with 1."""

    delay: Annotated[int, Introduced(0)] = 5
    pace: int = 1


class _Outer(Strict):
    inner: _Inner = _Inner()


def test_a_default_changed_later_shows_only_in_objects_that_take_the_new_one() -> None:
    assert canonical(_Outer.model_validate({"inner": {"delay": 0}})) == {}
    assert canonical(_Outer()) == {"inner": {"delay": 5}}


def test_a_field_added_later_does_not_show() -> None:
    assert canonical(_Outer.model_validate({"inner": {"delay": 0, "pace": 1}})) == {}
