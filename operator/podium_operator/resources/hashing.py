"""The desired-hash annotation: an unchanged child costs no request."""

import hashlib
from copy import deepcopy
from typing import Any

from podium_crds.base import canonical_json
from podium_crds.keys import ANNOTATION_DESIRED_HASH

Manifest = dict[str, Any]


def stamped(manifest: Manifest) -> Manifest:
    """A copy of the manifest with the hash of everything else in it as an annotation."""
    copy = deepcopy(manifest)
    digest = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()[:32]
    copy["metadata"].setdefault("annotations", {})[ANNOTATION_DESIRED_HASH] = digest
    return copy


def desired_hash(manifest: Manifest) -> str | None:
    """The hash that a live or stamped manifest carries, or None."""
    value = (manifest["metadata"].get("annotations") or {}).get(ANNOTATION_DESIRED_HASH)
    return str(value) if value is not None else None
