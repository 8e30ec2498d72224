"""The converter is strict: what a CRD cannot say raises, with the path."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from podium_crds.base import Form, KeyedBy, Open, Rule, Ruled, Strict
from podium_crds.schema import SchemaError, structural_schema, walk

Short = Annotated[str, Field(max_length=8)]
Small = Annotated[int, Field(ge=0, le=9)]


class Named(Strict):
    """An item."""

    name: Short


class Loop(Strict):
    again: "Loop | None" = None


class NoLength(Strict):
    outer: list[str] = Field(max_length=3)


class NoItems(Strict):
    outer: list[Short]


class NoBounds(Strict):
    outer: int


class Float(Strict):
    outer: float


class Union(Strict):
    outer: Short | Small


class Pair(Strict):
    outer: tuple[Short, Small]


class Unbounded(Strict):
    outer: dict[str, Short]


class BareObject(Strict):
    outer: object


class Email(Strict):
    outer: Annotated[str, Field(max_length=8, json_schema_extra={"format": "email"})]


class Multiple(Strict):
    outer: Annotated[int, Field(ge=0, le=9, multiple_of=3)]


class Exclusive(Strict):
    outer: Annotated[int, Field(gt=0, lt=9)]


class UniqueItems(Strict):
    outer: Annotated[set[Short], Field(max_length=3)]


class OptionalKey(Strict):
    class Item(Strict):
        name: Short = "x"

    outer: Annotated[tuple[Item, ...], Field(max_length=3), KeyedBy("name")]


class PatternedKeys(Strict):
    outer: Annotated[dict[Annotated[str, Field(pattern="^a$")], Short], Field(max_length=3)]


class LongKeys(Strict):
    outer: Annotated[dict[Annotated[str, Field(min_length=3)], Short], Field(max_length=3)]


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        (Loop, "root.again", "contains itself"),
        (NoLength, "root.outer[]", "string without maxLength"),
        (NoItems, "root.outer", "list without maxItems"),
        (NoBounds, "root.outer", "integer without minimum and maximum"),
        (Float, "root.outer", "floats are not for resources"),
        (Union, "root.outer", "is a union"),
        (Pair, "root.outer", "keyword prefixItems"),
        (Unbounded, "root.outer", "map without maxProperties"),
        (BareObject, "root.outer", "no structural form"),
        (Email, "root.outer", "format email"),
        (Multiple, "root.outer", "keyword multipleOf"),
        (Exclusive, "root.outer", "exclusiveMaximum, exclusiveMinimum"),
        (UniqueItems, "root.outer", "keyword uniqueItems"),
        (OptionalKey, "root.outer", "keyed by name, which is not a required field"),
        (PatternedKeys, "root.outer", "keyword patternProperties"),
        (LongKeys, "root.outer", "keys are constrained by"),
    ],
)
def test_what_a_crd_cannot_say_raises_with_its_path(kind: type[Strict], path: str, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        structural_schema(kind, "root")
    assert caught.value.path == path
    assert message in str(caught.value)


class Colour(StrEnum):
    """Not shown where the field has a docstring of its own."""

    RED = "Red"


class Inner(Ruled):
    """Inside."""

    small: Small = 3
    """A number
    on two lines."""
    maybe: Small | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.small > 0", "more", lambda inner: inner.small > 0),
        Rule(None, "Python only", lambda inner: True),
    )


class Everything(Strict):
    """All that can be said."""

    inner: Inner = Inner()
    """The inner."""
    colour: Colour = Colour.RED
    """The colour."""
    only: Literal["One"] = "One"
    word: Annotated[str, Form("^[a-z]+$", "a word"), Field(max_length=8)]
    plain: Annotated[tuple[Named, ...], Field(max_length=3), KeyedBy("name")] = ()
    listed: Annotated[tuple[Inner, ...], Field(max_length=3)] = ()
    anything: dict[str, Any] = Field(default_factory=dict)
    labels: Annotated[dict[Short, Short], Field(max_length=2)] = Field(default_factory=dict)


def test_what_a_crd_can_say_is_said() -> None:
    properties = structural_schema(Everything)["properties"]
    assert properties["inner"] == {
        "description": "The inner.",
        "type": "object",
        "properties": {
            "small": {
                "description": "A number on two lines.",
                "type": "integer",
                "maximum": 9,
                "minimum": 0,
                "format": "int32",
                "default": 3,
            },
            "maybe": {"type": "integer", "maximum": 9, "minimum": 0, "format": "int32"},
        },
        "x-kubernetes-validations": [{"rule": "self.small > 0", "message": "more"}],
        "default": {"small": 3},
    }
    assert properties["colour"] == {
        "description": "The colour.",
        "type": "string",
        "enum": ["Red"],
        "default": "Red",
    }
    assert properties["only"]["enum"] == ["One"]
    assert properties["word"]["x-kubernetes-validations"] == [
        {"rule": "self.matches(r'^[a-z]+$')", "message": "expected a word"}
    ]
    assert properties["plain"]["x-kubernetes-list-map-keys"] == ["name"]
    assert properties["anything"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert properties["labels"]["x-kubernetes-validations"][0]["rule"] == "self.all(key, size(key) <= 8)"


def test_nothing_is_filled_in_inside_lists() -> None:
    listed = structural_schema(Everything)["properties"]["listed"]
    assert not [path for path, node in walk(listed) if "default" in node]


def test_open_objects_keep_what_they_do_not_name() -> None:
    class Part(Open):
        name: Short

    schema = structural_schema(Part)
    assert schema["x-kubernetes-preserve-unknown-fields"] is True
    assert set(schema["properties"]) == {"name"}
