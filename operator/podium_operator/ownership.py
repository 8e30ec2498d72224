"""Whose an object is that has the name of a child: one of somebody else is left alone."""

from typing import Any

from podium_operator.errors import OperatorError
from podium_operator.kube.errors import Conflict
from podium_operator.kube.kinds import ref
from podium_operator.resources.labels import controlled_by
from podium_operator.state import Owner

Manifest = dict[str, Any]


class NotOursError(OperatorError):
    """An object that should be a child exists and belongs to someone else: it is left alone."""


def refuse_foreign(live: Manifest, owner: Owner) -> None:
    """Raises NotOursError for an object of something else; Conflict for one of a deleted resource of the same name,
    which garbage collection is about to remove."""
    if controlled_by(live, owner.uid):
        return
    resource = owner.resource
    of_a_forerunner = any(
        each.get("kind") == resource.kind and each.get("name") == resource.name
        for each in live["metadata"].get("ownerReferences") or ()
    )
    if of_a_forerunner or live["metadata"].get("deletionTimestamp"):
        raise Conflict(f"{ref(live)} belongs to a deleted {resource.kind} {resource.name} and is about to be removed")
    raise NotOursError(f"{ref(live)} exists and {resource.kind} {resource.name} does not own it: rename one of them")
