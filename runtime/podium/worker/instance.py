"""One loaded model and its windows on the arena: turns a Dispatch into a Reply."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from podium.engines.base import Engine, EngineBatch
from podium.engines.input_writes import watching
from podium.errors import ContractBreach, InvalidInput, ModelError, clipped
from podium.ipc.channel import Payloads
from podium.ipc.descriptor import MAX_TENSORS, Descriptor
from podium.ipc.protocol import Dispatch, ItemError, Reply
from podium.ipc.tensor import Tensor
from podium.ipc.view import ArenaView
from podium.worker.held import HeldViews
from podium.worker.places import Asker, OutputPlaces, dtype_for
from podium_crds.assignment import Member
from podium_crds.tensors import DType


@dataclass(frozen=True, slots=True)
class Instance:
    """Engine, views and contract of one model. Used by one thread."""

    member: Member
    engine: Engine
    view: ArenaView
    inline_bytes: int
    held: HeldViews = field(default_factory=HeldViews)
    watches_inputs: bool = False
    """Whether torch's writes to inputs are looked for."""

    def run(self, dispatch: Dispatch, payloads: Payloads, ask: Asker) -> tuple[Reply, list[bytes]]:
        """Runs the model on one batch and stores its outputs, each once, or not at all where it wrote them in place.

        Raises ModelError for the model's fault, DescriptorError for references that cannot be believed.
        """
        inputs = {name: self.held.give(ref, self.view.input(ref, payloads)) for name, ref in dispatch.inputs.items()}
        places = OutputPlaces(dispatch, self.view, self.held, ask)
        started = time.perf_counter()
        batch = EngineBatch(inputs, dispatch.rows, place=partial(self._place, places))
        with watching(self._read_only(inputs, dispatch)) if self.watches_inputs else nullcontext():
            arrays = self.engine.infer(batch)
        run_s = time.perf_counter() - started
        if batch.failed and len(batch.failed) >= len(dispatch.rows):
            outputs: dict[str, Tensor] = {}
        else:
            outputs = self._checked(arrays, batch)
        stored = places.store(outputs, self.inline_bytes)
        errors = tuple(
            ItemError(index, clipped(text), index in batch.refused) for index, text in sorted(batch.failed.items())
        )
        reply = Reply(
            dispatch.epoch, dispatch.batch, stored.refs, run_s, (), errors, stored.copies, stored.copied_bytes
        )
        return reply, stored.frames

    def _read_only(self, inputs: Mapping[str, Tensor], dispatch: Dispatch) -> dict[str, Tensor]:
        """Inputs that lie in the arena: the others are the model's own."""
        if self.held.copying:
            return {}
        return {name: inputs[name] for name, ref in dispatch.inputs.items() if isinstance(ref, Descriptor)}

    def _place(self, places: OutputPlaces, name: str, shape: tuple[int, ...], dtype: object) -> NDArray[Any]:
        """What `ctx.output` gives. Raises ValueError."""
        try:
            return places.array(dtype_for(name, self._declared(), dtype), shape, self.inline_bytes)
        except InvalidInput as error:
            raise ValueError(f"output {name!r}: {error}") from error

    def _declared(self) -> dict[str, DType]:
        return {spec.name: spec.dtype for spec in self.member.outputs}

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
