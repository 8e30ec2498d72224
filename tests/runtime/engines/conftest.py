"""The pod fixtures of the worker tests serve the engines' process tests as well."""

from tests.runtime.worker.conftest import groups, pod

__all__ = ["groups", "pod"]
