"""pydantic type → Kubernetes structural schema, strictly.

Takes pydantic's JSON schema and rewrites what a CustomResourceDefinition spells differently. Every keyword is on a
whitelist; anything else raises SchemaError with its path, since a silently weaker schema would accept what the operator
cannot serve. Strings, lists, maps and integers must be bounded, or the API server refuses the cost of the CEL rules.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from podium_crds.base import JsonObject
from podium_crds.errors import CrdsError

_KEPT = frozenset({"pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "enum"})
_EXTENSIONS = frozenset({"x-kubernetes-list-type", "x-kubernetes-list-map-keys"})
_HANDLED = frozenset({"type", "description", "default", "items", "format", "x-kubernetes-validations"})
_NOISE = frozenset({"title"})
_INT32_MAX = 2**31 - 1


class SchemaError(CrdsError):
    """A type uses a construct that a CRD cannot say. For the author of the type."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


def structural_schema(kind: type[BaseModel], path: str = "") -> JsonObject:
    """The structural schema of the type, references inlined. Raises SchemaError."""
    generated = kind.model_json_schema(by_alias=True, mode="validation")
    return _Converter(generated.pop("$defs", {})).convert(generated, path or kind.__name__, ())


class _Converter:
    def __init__(self, definitions: JsonObject) -> None:
        self._definitions = definitions

    def convert(self, node: JsonObject, path: str, inside: tuple[str, ...]) -> JsonObject:
        """The node without references, unions with null, titles and defaults that the API server needs no telling.

        `inside` names the definitions being inlined, to refuse recursion.
        """
        node, inside = self._resolved(node, path, inside)
        if node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-int-or-string"):
            return _opaque(node, path)
        match node.get("type"):
            case "object":
                return self._object(node, path, inside)
            case "array":
                return self._array(node, path, inside)
            case "string" | "integer" | "boolean":
                return _scalar(node, path)
            case "number":
                raise SchemaError(path, "floats are not for resources: use a decimal string, or an integer with a unit")
            case other:
                raise SchemaError(path, f"type {other!r} has no structural form")

    def _resolved(self, node: JsonObject, path: str, inside: tuple[str, ...]) -> tuple[JsonObject, tuple[str, ...]]:
        while True:
            if (alternatives := node.get("anyOf")) and not node.get("x-kubernetes-int-or-string"):
                real = [option for option in alternatives if option != {"type": "null"}]
                if len(real) != 1:
                    raise SchemaError(path, "is a union: use optional fields and a rule that exactly one is set")
                node = {**real[0], **{key: node[key] for key in node if key != "anyOf"}}
            elif reference := node.get("$ref"):
                name = str(reference).removeprefix("#/$defs/")
                if name in inside:
                    raise SchemaError(path, f"{name} contains itself: a structural schema cannot recur")
                inside = (*inside, name)
                node = {**self._definitions[name], **{key: node[key] for key in node if key != "$ref"}}
            else:
                # Absent is the only way to say nothing: null is not a default.
                absent = "default" in node and node["default"] is None
                return {key: node[key] for key in node if not (absent and key == "default")}, inside

    def _object(self, node: JsonObject, path: str, inside: tuple[str, ...]) -> JsonObject:
        properties = node.get("properties")
        if properties is None:
            return self._map(node, path, inside)
        _only(node, path, {"properties", "required", "additionalProperties"})
        converted = {name: self.convert(child, f"{path}.{name}", inside) for name, child in properties.items()}
        result: JsonObject = {**_described(node), "type": "object", "properties": converted}
        if required := sorted(node.get("required", [])):
            result["required"] = required
        if node.get("additionalProperties") is True:
            result["x-kubernetes-preserve-unknown-fields"] = True
        elif node.get("additionalProperties") not in (None, False):
            raise SchemaError(path, "has both properties and typed additionalProperties")
        if rules := node.get("x-kubernetes-validations"):
            result["x-kubernetes-validations"] = rules
        inner = {name: child["default"] for name, child in converted.items() if "default" in child}
        if "default" in node and inner:
            # The API server fills in the defaults inside only where the object itself is present, and checks the rules
            # on this default before it fills in anything, so it has to be spelled out.
            result["default"] = inner
        return result

    def _map(self, node: JsonObject, path: str, inside: tuple[str, ...]) -> JsonObject:
        _only(node, path, {"additionalProperties", "propertyNames", "maxProperties"})
        values = node.get("additionalProperties")
        result: JsonObject = {**_described(node), "type": "object"}
        if values is True:
            return {**result, "x-kubernetes-preserve-unknown-fields": True}
        if not isinstance(values, dict):
            raise SchemaError(path, "is an object without properties: name them, or use an open object")
        if "maxProperties" not in node:
            raise SchemaError(path, "is a map without maxProperties")
        result |= {
            "maxProperties": node["maxProperties"],
            "additionalProperties": self.convert(values, f"{path}[]", inside),
        }
        if names := node.get("propertyNames"):
            result["x-kubernetes-validations"] = [_key_rule(names, path)]
        return result

    def _array(self, node: JsonObject, path: str, inside: tuple[str, ...]) -> JsonObject:
        _only(node, path, {"maxItems", "minItems"})
        if "items" not in node:
            raise SchemaError(path, "is a list of fixed positions: use an object with named fields")
        if "maxItems" not in node:
            raise SchemaError(path, "is a list without maxItems")
        result: JsonObject = {**_described(node), "type": "array"}
        result |= {key: node[key] for key in ("minItems", "maxItems", *sorted(_EXTENSIONS)) if key in node}
        # No defaults inside lists: client-side apply and GitOps tools compare lists as a whole, and would find the
        # filled-in fields to differ from the manifest for ever. They are filled in when the object is read.
        result["items"] = without_defaults(self.convert(node["items"], f"{path}[]", inside))
        if "x-kubernetes-list-type" not in node:
            result["x-kubernetes-list-type"] = "atomic"
        for key in node.get("x-kubernetes-list-map-keys", ()):
            if key not in result["items"].get("required", ()):
                raise SchemaError(path, f"is keyed by {key}, which is not a required field of its items")
        return result


def _scalar(node: JsonObject, path: str) -> JsonObject:
    _only(node, path, {"const"})
    result: JsonObject = {**_described(node), "type": node["type"]}
    if "const" in node:
        result["enum"] = [node["const"]]
    result |= {key: node[key] for key in sorted(_KEPT) if key in node}
    if rules := node.get("x-kubernetes-validations"):
        result["x-kubernetes-validations"] = rules
    if node["type"] == "string":
        _check_string(node, result, path)
    if node["type"] == "integer":
        if not {"minimum", "maximum"} <= result.keys():
            raise SchemaError(path, "is an integer without minimum and maximum")
        result["format"] = "int32" if result["maximum"] <= _INT32_MAX else "int64"
    if node.get("default", "") != "":
        result["default"] = node["default"]
    return result


def _check_string(node: JsonObject, result: JsonObject, path: str) -> None:
    if "maxLength" not in result and "enum" not in result:
        raise SchemaError(path, "is a string without maxLength")
    if (form := node.get("format")) is not None:
        if form != "date-time":
            raise SchemaError(path, f"format {form} is not checked by an API server: use a pattern")
        result["format"] = form


def _opaque(node: JsonObject, path: str) -> JsonObject:
    """A value that the schema keeps as it is, or an integer-or-string."""
    result = _described(node)
    if node.get("x-kubernetes-int-or-string"):
        kept = ("anyOf", "maxLength", "x-kubernetes-int-or-string", "x-kubernetes-validations")
        result |= {key: node[key] for key in kept if key in node}
        return result
    if "properties" in node:
        raise SchemaError(path, "is kept as it is, so it cannot have properties")
    return {**result, "x-kubernetes-preserve-unknown-fields": True}


def _described(node: JsonObject) -> JsonObject:
    text = " ".join(str(node.get("description", "")).split())
    return {"description": text} if text else {}


def _key_rule(names: JsonObject, path: str) -> JsonObject:
    if set(names) != {"maxLength"}:
        raise SchemaError(path, f"keys are constrained by {sorted(names)}: only maxLength can be said")
    limit = names["maxLength"]
    return {"rule": f"self.all(key, size(key) <= {limit})", "message": f"keys have at most {limit} characters"}


def _only(node: JsonObject, path: str, own: set[str]) -> None:
    allowed = _KEPT | _HANDLED | _EXTENSIONS | _NOISE | own if node.get("type") != "object" else _HANDLED | _NOISE | own
    if unknown := sorted(set(node) - allowed):
        raise SchemaError(path, f"keyword {', '.join(unknown)} has no structural form")


def normalised(value: Any, schema: JsonObject) -> Any:
    """The JSON value as an API server reads it: nulls of known fields and of maps dropped, 2.0 read as the integer 2.

    Open objects are left as they are. The value itself is not changed.
    """
    if isinstance(value, dict) and schema.get("type") == "object":
        properties, values = schema.get("properties", {}), schema.get("additionalProperties")
        if not properties and values is None:
            return value
        children = {key: properties.get(key, values) for key in value}
        known = {key: item for key, item in value.items() if item is not None or children[key] is None}
        return {key: normalised(item, children[key] or {}) for key, item in known.items()}
    if isinstance(value, list) and schema.get("type") == "array":
        return [normalised(item, schema["items"]) for item in value]
    if isinstance(value, float) and value.is_integer():
        is_integer = schema.get("type") == "integer" or schema.get("x-kubernetes-int-or-string")
        return int(value) if is_integer else value
    return value


def without_defaults(schema: JsonObject) -> JsonObject:
    """The schema for what only the operator writes: nothing is filled in."""
    for _, node in walk(schema):
        node.pop("default", None)
    return schema


def walk(schema: JsonObject, path: str = "") -> Iterator[tuple[str, JsonObject]]:
    """Every node of a structural schema with its path: `spec.models[].name`."""
    yield path, schema
    children: dict[str, Any] = schema.get("properties", {})
    for name, child in children.items():
        yield from walk(child, f"{path}.{name}".lstrip("."))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from walk(schema[keyword], f"{path}[]")
