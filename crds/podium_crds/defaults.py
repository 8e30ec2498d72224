"""Spec → canonical spec: one JSON value for everything that means the same. What revisions are hashed over."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from podium_crds.base import Canonical, Introduced, JsonObject

Json = JsonObject | list[Any] | str | int | float | bool | None

_ABSENT = object()


def canonical(spec: BaseModel, only: Collection[str] | None = None) -> JsonObject:
    """The spec in wire names; fields equal to their introduction default left out, lists without order sorted.

    `only`: Python names of the fields to write; None: all of them.
    An object that spells a default out, lists things in another order, or was stored before a field existed has the
    same canonical form. Open objects (affinity, parameters, …) are taken as they are.
    """
    defaults = _introduction_defaults(type(spec))
    result: JsonObject = dict(spec.model_extra or {})
    for name, field in type(spec).model_fields.items():
        if only is not None and name not in only:
            continue
        value = _field(field, getattr(spec, name))
        if value is not None and value != defaults[name]:
            result[field.alias or name] = value
    return result


def _field(field: FieldInfo, value: object) -> Json:
    written = _value(value)
    for marker in field.metadata:
        if isinstance(marker, Canonical) and written is not None:
            written = marker.write(written)
    return written


def _value(value: object) -> Json:
    match value:
        case BaseModel():
            return canonical(value)
        case tuple() | list():
            return [_value(item) for item in value]
        case dict():
            return {str(key): _value(item) for key, item in value.items()}
        case str() | int() | float() | None:
            return str(value) if isinstance(value, str) else value
    raise TypeError(f"{type(value).__name__} has no canonical form")


@functools.cache
def _introduction_defaults(model: type[BaseModel]) -> Mapping[str, object]:
    """By field. Kept: they would be most of the cost of a canonical form, and a reconcile pass needs several."""
    return {name: _introduction_default(field) for name, field in model.model_fields.items()}


def _introduction_default(field: FieldInfo) -> object:
    for marker in field.metadata:
        if isinstance(marker, Introduced):
            return marker.default
    if field.is_required():
        return _ABSENT
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        # Its own fields know their introduction defaults; today's default instance may hold later ones.
        assert default == type(default)(), f"default of {field.alias} differs from its type's own defaults"
        return {}
    return _field(field, default)
