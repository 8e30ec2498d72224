"""What the forms of bodies share: a JSON document, and who answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from podium.errors import InvalidInput
from podium.http.transport.limits import MAX_DEPTH, MAX_PRIORITY
from podium.ipc.tensor import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Served:
    """Who answers: names for the answer."""

    name: str
    version: str
    revision: str
    request_id: str


def parse_object(raw: bytes, form: str) -> dict[str, Any]:
    """A JSON object of bounded depth. Raises InvalidInput."""
    return checked_object(parse_json(raw, form), "JSON", form)


def parse_json(raw: bytes, form: str) -> Any:
    """Any JSON, of any depth: for who looks at its form anyway. Raises InvalidInput."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON ({error}); expected {form}") from error


def checked_object(value: object, what: str, form: str) -> dict[str, Any]:
    """`value` where it is an object of bounded depth. Raises InvalidInput."""
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is not a {what} object; expected {form}")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels; expected {form}")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    """Whether objects nest deeper than that. The data of a tensor, lists of lists, has a bound of its own."""
    if isinstance(value, dict):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value.values())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)
    return False


def only_keys(body: Mapping[str, Any], keys: set[str], form: str) -> None:
    """Raises InvalidInput for a key that nothing reads."""
    if unknown := sorted(str(key) for key in body if key not in keys):
        raise InvalidInput(f"unknown key {unknown[0][:80]!r}; expected {form}")


def priority_of(value: object) -> int:
    """A request's own priority; 0 where it has none. Raises InvalidInput."""
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_PRIORITY:
        raise InvalidInput(f'"priority" must be an integer from 1, the most urgent, to {MAX_PRIORITY}; 0: as the model')
    return value
