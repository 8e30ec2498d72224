"""`Handler`, the base class of Handler-engine models, and `InvalidItem`, how it refuses one item of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podium.sdk.model import ModelContext

Item = Mapping[str, Any]
"""One row of one request, by input name: an array without the batch dimension; a number or `bytes` where the input has
no other dimension. Arrays are read-only and valid during the call alone."""


class InvalidItem(Exception):  # noqa: N818 - a verdict on the client's data, not a fault of the model
    """Raise it in `preprocess` or `postprocess`, or return it in place of an item from `infer`: the request that the
    item belongs to is answered 422 with this message; the others of the batch are not touched."""


class Handler:
    """A model in three steps. Subclass it, and name the class as `handler.entrypoint`: `module:ClassName`.

    The rows of all requests in a batch are given as one list, whatever request they came in. One object lives in each
    worker process and is used by one thread.
    """

    def load(self, ctx: ModelContext) -> None:
        """Reads weights and builds what the steps need. An exception here fails the load and is reported."""

    def preprocess(self, items: list[Item]) -> Any:
        """Items → what `infer` takes. Has no effect but its answer.

        Where it raises, it is called again with each item alone: those that raise then fail by themselves.
        """
        return items

    def infer(self, batch: Any) -> Iterable[Any]:
        """One result for each item, in order: a sequence, an array, or a dictionary of arrays by output name."""
        raise NotImplementedError(f"{type(self).__name__} does not define infer")

    def postprocess(self, item: Any) -> Mapping[str, Any]:
        """One result → its outputs by name. An exception fails the request of this item alone."""
        result: Mapping[str, Any] = item
        return result

    def unload(self) -> None:
        """Called before the process ends in good order; not after a crash."""
