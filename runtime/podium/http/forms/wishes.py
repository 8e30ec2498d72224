"""What a request of named tensors asks for beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podium.errors import InvalidInput
from podium.http.forms.document import only_keys, priority_of
from podium.http.transport.limits import MAX_TIMEOUT_MS
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract

KEYS = {"inputs", "outputs", "timeout_ms", "priority"}


@dataclass(frozen=True, slots=True)
class NamedRequest:
    """What a body asks for beside its tensors."""

    outputs: tuple[str, ...] | None = None
    """None: all of them."""
    timeout_s: float | None = None
    priority: int = 0
    """From 1, the most urgent, to 9; 0: the model's own."""


def wishes(body: Mapping[str, Any], contract: Contract, form: str) -> NamedRequest:
    """`outputs`, `timeout_ms` and `priority`. Raises InvalidInput."""
    only_keys(body, KEYS, form)
    outputs = _outputs(body.get("outputs"))
    contract.check_outputs(outputs or ())
    return NamedRequest(outputs, _timeout(body.get("timeout_ms")), priority_of(body.get("priority")))


def chosen(outputs: Mapping[str, Tensor], wanted: tuple[str, ...] | None) -> Mapping[str, Tensor]:
    """The wanted outputs in the order asked for. One that was not returned (a skipped branch) is left out."""
    return outputs if wanted is None else {name: outputs[name] for name in wanted if name in outputs}


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
