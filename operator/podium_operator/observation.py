"""What one pass saw: the value that `observe` makes, and that `reconcile` and `perform` read."""

from dataclasses import dataclass

from podium_operator.pods.client import AdminKeys
from podium_operator.state import Observed


@dataclass(frozen=True, slots=True)
class Observation:
    """What one pass saw."""

    observed: Observed
    admin_keys: AdminKeys | None = None
    """None: there is no usable admin Secret yet."""
    rotation: str = ""
    """The rotation that the Secret answers, as the resource's annotation had it."""
