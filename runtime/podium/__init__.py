"""Podium: batching engine pods with shared-memory tensors. A model's author needs `from podium import Model` alone.

The import is light: it loads neither torch, zmq nor numpy. Names are resolved at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podium.sdk.codec import decodes, encodes
    from podium.sdk.errors import TraceError
    from podium.sdk.handler import Handler, InvalidItem
    from podium.sdk.members import model
    from podium.sdk.model import Model, ModelContext
    from podium.sdk.trace import cond, parallel, trace

__all__ = [
    "Handler",
    "InvalidItem",
    "Model",
    "ModelContext",
    "TraceError",
    "cond",
    "decodes",
    "encodes",
    "model",
    "parallel",
    "trace",
]

_HOMES = {
    "Handler": "podium.sdk.handler",
    "InvalidItem": "podium.sdk.handler",
    "Model": "podium.sdk.model",
    "ModelContext": "podium.sdk.model",
    "TraceError": "podium.sdk.errors",
    "cond": "podium.sdk.trace",
    "decodes": "podium.sdk.codec",
    "encodes": "podium.sdk.codec",
    "model": "podium.sdk.members",
    "parallel": "podium.sdk.trace",
    "trace": "podium.sdk.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'podium' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
