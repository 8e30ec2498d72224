"""The Secret with the admin key. Chance is an argument: the key comes from the caller, once."""

import base64
from typing import Any

from podium_operator.resources import names
from podium_operator.resources.labels import ROTATE_ADMIN_KEY, child_labels, metadata
from podium_operator.state import Owner

KEY_BYTES = 32
CURRENT = "current"
PREVIOUS = "previous"


def admin_key(owner: Owner, current: bytes, previous: bytes | None, rotation: str) -> dict[str, Any]:
    """The Secret. `rotation`: the value of the resource's rotate annotation that `current` answers, or empty."""
    data = {CURRENT: base64.b64encode(current).decode()}
    if previous is not None:
        data[PREVIOUS] = base64.b64encode(previous).decode()
    annotations = {ROTATE_ADMIN_KEY: rotation} if rotation else None
    labels = child_labels(owner.resource, "admin-key")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata(owner, names.admin_key(owner.resource.name), labels, annotations),
        "data": data,
    }
