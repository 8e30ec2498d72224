"""`:predict` and `:run`: named tensors as JSON, with messages that name what was expected."""

from dataclasses import dataclass
from typing import Any

import orjson

from podium.errors import InvalidInput
from podium.http.asgi import Answer, json_answer
from podium.http.limits import MAX_TIMEOUT_MS
from podium.ipc.tensor import Tensor
from podium.serving.live import LiveRevision
from podium.serving.named_tensors import outputs_to_json, parse_tensors

KEYS = {"inputs", "outputs", "timeout_ms"}
FORM = '{"inputs": {"<name>": {"dtype": …, "shape": …, "data": …}}, "outputs": ["<name>"], "timeout_ms": …}'


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What the body asks for."""

    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] | None
    """None: all of them."""
    timeout_s: float | None


def parse_predict(raw: bytes, revision: LiveRevision) -> PredictRequest:
    """The request in a body. Raises InvalidInput."""
    body = parse_object(raw, FORM)
    if unknown := sorted(body.keys() - KEYS):
        raise InvalidInput(f"unknown key {unknown[0][:80]!r}; expected {FORM}")
    outputs = _outputs(body.get("outputs"))
    revision.contract.check_outputs(outputs or ())
    return PredictRequest(
        parse_tensors(body.get("inputs"), revision.contract), outputs, _timeout(body.get("timeout_ms"))
    )


def predict_answer(revision: LiveRevision, outputs: dict[str, Tensor], wanted: tuple[str, ...] | None) -> Answer:
    """The response: named tensors in the same form. Borrows the outputs."""
    return json_answer(
        {
            "model": revision.resource.name,
            "version": revision.spec.version,
            "revision": revision.name,
            "outputs": outputs_to_json(chosen(outputs, wanted)),
        }
    )


def chosen(outputs: dict[str, Tensor], wanted: tuple[str, ...] | None) -> dict[str, Tensor]:
    """The wanted outputs in the order asked for. One that was not returned (a skipped branch) is left out."""
    return outputs if wanted is None else {name: outputs[name] for name in wanted if name in outputs}


def parse_object(raw: bytes, form: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON ({error}); expected {form}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is not a JSON object; expected {form}")
    return value


def _outputs(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise InvalidInput('"outputs" must be a list of output names; leave it out for all of them')
    return tuple(dict.fromkeys(value))


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= MAX_TIMEOUT_MS:
        raise InvalidInput(f'"timeout_ms" must be an integer from 1 to {MAX_TIMEOUT_MS}')
    return value / 1000
