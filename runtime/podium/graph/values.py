"""The values of one run of a graph: tensors handed from step to step without a copy, released after the last reader."""

from collections.abc import Mapping, Sequence

from podium.graph.errors import MissingOutputError
from podium.graph.plan import REQUEST, GraphPlan, ValueRef
from podium.ipc.tensor import Tensor


class Values:
    """Owns the outputs of every step of one run. Inputs of the request stay the caller's."""

    def __init__(self, plan: GraphPlan, request: Mapping[str, Tensor]) -> None:
        self._plan = plan
        self._request = request
        self._owned: dict[ValueRef, Tensor] = {}
        self._unread = dict(plan.readers)

    def add(self, step: str, outputs: Mapping[str, Tensor]) -> None:
        """Takes over what a step returned; what nobody reads, or reads any more, is released at once.

        Raises MissingOutputError where something that is read was not returned.
        """
        for name, tensor in outputs.items():
            ref = ValueRef(step, name)
            if self._unread.get(ref, 0):
                self._owned[ref] = tensor
            else:
                tensor.release()
        for ref in self._plan.read_of[step]:
            if ref.name not in outputs:
                raise MissingOutputError(step, ref.name, list(outputs))

    def get(self, ref: ValueRef) -> Tensor | None:
        """The tensor, borrowed until `done` has been called for it; None where there is none."""
        return self._request.get(ref.name) if ref.producer == REQUEST else self._owned.get(ref)

    def first(self, refs: Sequence[ValueRef]) -> Tensor | None:
        """The first of them that has a value."""
        return next((tensor for ref in refs if (tensor := self.get(ref)) is not None), None)

    def done(self, ref: ValueRef) -> None:
        """One reader of the value needs it no more, or will never need it."""
        self._unread[ref] -= 1
        if not self._unread[ref] and (tensor := self._owned.pop(ref, None)) is not None:
            tensor.release()

    def release_all(self) -> None:
        """Releases whatever is left."""
        while self._owned:
            self._owned.popitem()[1].release()
