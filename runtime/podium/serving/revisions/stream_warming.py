"""Warm-up and smoke test of models that answer in chunks alone."""

import asyncio
from collections.abc import Mapping

import numpy as np

from podium.errors import ModelError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.dispatch.streams import Outputs
from podium.telemetry.counting import StreamCounts

MAX_JOINED_BYTES = 64 << 20
"""Of an answer that is read to its end to be compared."""


async def first_chunks(
    group: WorkerGroup, inputs: Mapping[str, Tensor], instances: int, deadline: float
) -> list[Outputs | BaseException]:
    """The first chunk that each instance gives, or what it failed with; the streams are closed then."""

    async def first() -> Outputs:
        async with group.stream(inputs, request_id="warm-up", deadline=deadline, counts=StreamCounts()) as answer:
            chunks = await answer.read()
            return chunks[0] if chunks else {}

    # All at once: each stream goes to the instance with the fewest.
    return await asyncio.gather(*(first() for _ in range(instances)), return_exceptions=True)


async def whole_answer(group: WorkerGroup, inputs: Mapping[str, Tensor], deadline: float) -> Outputs:
    """Every output of a stream, its chunks joined along the first dimension. Raises as `read`."""
    parts: dict[str, list[Tensor]] = {}
    size = 0
    async with group.stream(inputs, request_id="smoke-test", deadline=deadline, counts=StreamCounts()) as answer:
        async for chunk in answer:
            for name, tensor in chunk.items():
                parts.setdefault(name, []).append(tensor)
                size += tensor.nbytes
            if size > MAX_JOINED_BYTES:
                raise ModelError(f"the stream has more than {MAX_JOINED_BYTES} bytes; choose a shorter request")
    try:
        return {name: _joined(tensors) for name, tensors in parts.items()}
    except ValueError as error:
        raise ModelError(f"the chunks cannot be joined along their first dimension: {error}") from error


def _joined(tensors: list[Tensor]) -> Tensor:
    return Tensor.from_array(np.concatenate([tensor.array() for tensor in tensors]))
