"""One loaded model and its windows on the arena: turns a Dispatch into a Reply."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from podium.engines.base import Engine, EngineBatch
from podium.errors import ContractBreach, InvalidInput, ModelError, clipped
from podium.ipc.channel import Payloads
from podium.ipc.descriptor import MAX_TENSORS, Inline, SlotRange, TensorRef, aligned
from podium.ipc.protocol import MAX_INLINE_BYTES, Dispatch, ItemError, Reply
from podium.ipc.tensor import Tensor
from podium.ipc.view import ArenaView, describe
from podium.worker.held import HeldViews
from podium_crds.assignment import Member

Asker = Callable[[int, int], SlotRange | None]
"""(batch, bytes) → a larger grant, or None where the arena has no room."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Engine, views and contract of one model. Used by one thread."""

    member: Member
    engine: Engine
    view: ArenaView
    inline_bytes: int
    held: HeldViews = field(default_factory=HeldViews)

    def run(self, dispatch: Dispatch, payloads: Payloads, ask: Asker) -> tuple[Reply, list[bytes]]:
        """Runs the model on one batch and stores its outputs, each once.

        Raises ModelError for the model's fault, DescriptorError for references that cannot be believed.
        """
        inputs = {name: self.held.give(ref, self.view.input(ref, payloads)) for name, ref in dispatch.inputs.items()}
        started = time.perf_counter()
        batch = EngineBatch(inputs, dispatch.rows)
        arrays = self.engine.infer(batch)
        run_s = time.perf_counter() - started
        if batch.failed and len(batch.failed) >= len(dispatch.rows):
            outputs: dict[str, Tensor] = {}
        else:
            outputs = self._checked(arrays, batch)
        refs, frames = self._stored(dispatch, outputs, ask)
        errors = tuple(ItemError(index, clipped(text)) for index, text in sorted(batch.failed.items()))
        return Reply(dispatch.epoch, dispatch.batch, refs, run_s, errors=errors), frames

    def _checked(self, arrays: Mapping[str, NDArray[Any]], batch: EngineBatch) -> dict[str, Tensor]:
        """Outputs as tensors, or ModelError where they break the declared contract or the batch."""
        if len(arrays) > MAX_TENSORS:
            raise ModelError(f"the model returned {len(arrays)} outputs, at most {MAX_TENSORS} are possible")
        declared = {spec.name: spec for spec in self.member.outputs}
        missing = sorted(name for name, spec in declared.items() if name not in arrays and not spec.optional)
        if missing:
            raise ContractBreach(f"outputs {missing} are declared and were not returned; these were: {sorted(arrays)}")
        outputs: dict[str, Tensor] = {}
        for name, array in arrays.items():
            if declared and name not in declared:
                continue
            try:
                outputs[name] = Tensor.from_array(array)
            except InvalidInput as error:
                raise ModelError(f"output {name!r}: {error}") from error
            if declared and outputs[name].dtype is not declared[name].dtype:
                raise ContractBreach(f"output {name!r} is {outputs[name].dtype}, declared is {declared[name].dtype}")
            if batch.rows and (array.ndim == 0 or array.shape[0] != batch.good_rows):
                raise ModelError(f"output {name!r} has shape {list(array.shape)}, expected {batch.good_rows} rows")
        return outputs

    def _stored(
        self, dispatch: Dispatch, outputs: Mapping[str, Tensor], ask: Asker
    ) -> tuple[dict[str, TensorRef], list[bytes]]:
        total = sum(aligned(tensor.nbytes) for tensor in outputs.values())
        if total <= self.inline_bytes:
            return _inline(outputs)
        grant = dispatch.grant
        if grant is None or total > grant.nbytes:
            grant = ask(dispatch.batch, total)
        if grant is None:
            if total > MAX_INLINE_BYTES:
                raise ModelError(f"outputs of {total} bytes find no room in the arena; raise its size")
            return _inline(outputs)
        refs: dict[str, TensorRef] = {}
        offset = 0
        for name, tensor in outputs.items():
            self.view.output(grant, offset, tensor.nbytes)[:] = tensor.data
            refs[name] = describe(grant, offset, tensor)
            offset += aligned(tensor.nbytes)
        return refs, []


def _inline(outputs: Mapping[str, Tensor]) -> tuple[dict[str, TensorRef], list[bytes]]:
    refs: dict[str, TensorRef] = {
        name: Inline(frame, tensor.dtype, tensor.shape) for frame, (name, tensor) in enumerate(outputs.items())
    }
    return refs, [bytes(tensor.data) for tensor in outputs.values()]
