# ruff: noqa: N818 - the names are the conditions, as in kube.errors
"""Errors of the operator that belong to no narrower package. A leaf: imports nothing of the operator.

`kube.errors` and `pods.errors` derive from `OperatorError`, so that the work queue can tell what we foresaw from bugs.
"""


class OperatorError(Exception):
    """Something outside went wrong in a way that was foreseen. The operator retries, unless a class says else."""


class LeaseLost(OperatorError):
    """Another replica may be leading now: stop writing and exit."""


class NotPrimed(OperatorError):
    """The caches were not filled before their deadline."""


class WatchesEnded(OperatorError):
    """The watch runtime ended without being asked to; the process must restart."""
