"""The strict model base of every type that crosses a process border as JSON or YAML, and the bounds they share."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Strict(BaseModel):
    """Immutable, camelCase on the wire, refuses unknown keys. Dump with `wire()`."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict[str, Any]:
        """JSON-ready mapping in wire names; absent optionals are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Lenient(Strict):
    """As Strict, but ignores keys that a newer writer added: for what another release may have written."""

    model_config = ConfigDict(extra="ignore")


class Open(Strict):
    """As Strict, but keeps keys it does not name, as they are: parts of a PodSpec that the API server checks."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule across fields. The API server runs `cel`; `holds` is the same predicate where there is no API server.

    `message` says what to write instead. That both agree is tested against a real API server. `cel` is None for what an
    API server cannot see, such as the size of an open object: that becomes a condition.
    """

    cel: str | None
    message: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Canonical:
    """Marks a field whose value has several spellings that mean the same: `write` picks one for hashing.

    It takes and returns JSON values, and applying it twice is applying it once.
    """

    write: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Introduced:
    """Marks a field whose default is no longer the one it came with.

    `default` is the first one, as a JSON value; None where absent was the default. Hashes leave out what equals it, so
    that neither a new field nor a changed default gives an old object a new revision.
    """

    default: Any


@dataclass(frozen=True, slots=True)
class Form:
    """Marks a string that must match a pattern, with a message that says what to write.

    A schema's own `pattern` would be answered with the regular expression alone, so this becomes a CEL rule. The
    pattern is RE2 and anchored; it holds no single quote.
    """

    pattern: str
    expected: str
    """Completes the sentence `expected …`."""
    inside_lists: bool = False
    """True where so many of them may occur that rules would cost more than an API server allows: then it is the
    schema's `pattern` after all."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if self.inside_lists:
            return {**handler(schema), "pattern": self.pattern}
        rule = {"rule": f"self.matches(r'{self.pattern}')", "message": f"expected {self.expected}"}
        return {**handler(schema), "x-kubernetes-validations": [rule]}

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text):
            return text
        raise PydanticCustomError("form", "expected {expected}", {"expected": self.expected})


@dataclass(frozen=True, slots=True)
class KeyedBy:
    """Marks a list of objects that one field tells apart: no value of it occurs twice.

    In the schema this is list-type map, so that several owners can apply entries of their own.
    """

    key: str
    """Wire name of the field."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}

    def _check(self, items: tuple[BaseModel, ...]) -> tuple[BaseModel, ...]:
        seen: set[object] = set()
        for item in items:
            value = item.model_dump(mode="json", by_alias=True)[self.key]
            if value in seen:
                raise PydanticCustomError(
                    "twice", "{key} {value} is used twice: rename or remove one", {"key": self.key, "value": value}
                )
            seen.add(value)
        return items


class Ruled(Strict):
    """As Strict, with the `rules` of the class and of its bases checked after the fields."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def all_rules(cls) -> Iterator[Rule]:
        """Rules of this class and its bases, the bases' last."""
        for owner in cls.__mro__:
            yield from owner.__dict__.get("rules", ())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the rules as x-kubernetes-validations, for the generator of CRDs."""
        generated = handler.resolve_ref_schema(handler(schema))
        rules = [{"rule": rule.cel, "message": rule.message} for rule in cls.all_rules() if rule.cel is not None]
        if rules:
            generated["x-kubernetes-validations"] = rules
        return generated

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.all_rules():
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message})
        return self


DnsLabel = Annotated[
    str,
    Form(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "lower-case letters, digits and '-', beginning and ending with no '-'"),
    Field(max_length=63),
]
"""An RFC 1123 label: the form of every name that users give."""

Digest = Annotated[str, Form(r"^sha256:[0-9a-f]{64}$", "sha256: and 64 lower-case hex digits"), Field(max_length=71)]
"""`sha256:` and 64 hex digits."""

Decimal = Annotated[
    str, Form(r"^[0-9]{1,9}([.][0-9]{1,9})?$", 'a decimal in quotes, such as "0.001"'), Field(max_length=19)
]
"""A non-negative decimal as a string, since resources carry no floats."""

MAX_RESOURCE_NAME = 52
"""Leaves room for `-` and ten hex digits of a revision in a 63-character name."""

ResourceName = Annotated[
    str,
    Form(
        r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "lower-case letters, digits and '-', beginning with a letter, since it becomes the name of a Service",
    ),
    Field(max_length=MAX_RESOURCE_NAME),
]
"""Name of an InferenceModel or InferencePipeline."""

ObjectName = Annotated[
    str,
    Form(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "the name of an object: lower-case letters, digits, '-' and '.'"),
    Field(max_length=253),
]
"""Name of another Kubernetes object, such as a Secret."""

VersionName = Annotated[
    str,
    Form(
        r"^[A-Za-z0-9]([A-Za-z0-9._+-]*[A-Za-z0-9])?$",
        "letters, digits and, between them, '.', '_', '+' and '-', such as \"1\" or v1.2",
    ),
    Field(max_length=63),
]
"""A user's name for a version."""

Seconds = Annotated[int, Field(ge=0, le=86_400)]
PositiveSeconds = Annotated[int, Field(ge=1, le=86_400)]
Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""As far as every JSON reader counts exactly."""
Text = Annotated[str, Field(max_length=1024)]
"""A message or reason for people."""

Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC."""

JsonObject = dict[str, Any]
"""Any JSON object, kept as it is."""


def canonical_json(value: object) -> str:
    """One text for one JSON value: sorted keys, no spaces, whole floats as integers (as an API server returns them)."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _whole(value: object) -> object:
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list() | tuple():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case _:
            return value


def json_bytes(value: object) -> int:
    """Size of the value as compact JSON in UTF-8."""
    return len(canonical_json(value).encode())


UNORDERED = Canonical(lambda items: sorted(items, key=canonical_json))
"""For lists whose order means nothing."""

UNHASHED = Canonical(lambda _: None)
"""For a field that makes no revision inside an object whose other fields do."""
