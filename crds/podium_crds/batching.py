"""How requests are gathered into tensor batches: limits, order, padding and ragged batches."""

from typing import Annotated, ClassVar

from pydantic import Field

from podium_crds.base import Form, KeyedBy, Rule, Ruled, Strict
from podium_crds.tensors import MAX_DIMS, TensorName

MAX_VARIABLE_TENSORS = 16

Dimensions = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_DIMS - 1)], ...], Field(min_length=1, max_length=MAX_DIMS - 1)
]
"""Dimensions of a tensor by number; 0 would be the batch."""

PadValue = Annotated[
    str, Form(r"^-?[0-9]{1,9}([.][0-9]{1,9})?$", 'a number in quotes, such as "0" or "-1"'), Field(max_length=20)
]

Priority = Annotated[int, Field(ge=1, le=9)]


class CroppedOutput(Strict):
    """An output that is as long as a padded input, and is cut back to the length of each request."""

    name: TensorName
    """Name of the output."""
    dimensions: Dimensions = (1,)
    """Its dimensions that follow the padded dimensions of the input, in the same order."""


class PaddingSpec(Ruled):
    """An input that requests may bring in different lengths: shorter ones are filled up to the longest of a batch."""

    input: TensorName
    """Name of a declared input of a numeric type."""
    dimensions: Dimensions = (1,)
    """Its dimensions that are filled up; declare their size as -1."""
    value: PadValue = "0"
    """What is filled in."""
    outputs: Annotated[tuple[CroppedOutput, ...], Field(max_length=MAX_VARIABLE_TENSORS), KeyedBy("name")] = ()
    """Outputs that have the padded length too: each request gets back as much of them as it has sent."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.outputs) || self.outputs.all(o, "
            "(has(o.dimensions) ? size(o.dimensions) : 1) == (has(self.dimensions) ? size(self.dimensions) : 1))",
            message="outputs[].dimensions must name one dimension for each padded dimension of the input",
            holds=lambda pad: all(len(output.dimensions) == len(pad.dimensions) for output in pad.outputs),
        ),
    )


class RaggedSpec(Ruled):
    """Rows of different lengths follow each other without padding; the model is told where each begins."""

    inputs: Annotated[tuple[TensorName, ...], Field(min_length=1, max_length=MAX_VARIABLE_TENSORS)]
    """Inputs `[rows, length, …]` that are joined to `[sum of lengths, …]`. All of a request have the same length."""
    offsets_input: TensorName | None = None
    """Name of an INT64 input `[rows + 1]` that is added: where each row begins, and the end."""
    lengths_input: TensorName | None = None
    """Name of an INT64 input `[rows]` that is added: how long each row is."""
    outputs: Annotated[tuple[TensorName, ...], Field(max_length=MAX_VARIABLE_TENSORS)] = ()
    """Outputs `[sum of lengths, …]` that are given back as `[rows, length, …]`; all others are `[rows, …]`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.offsetsInput) || has(self.lengthsInput)",
            message="a ragged batch needs offsetsInput, lengthsInput or both, which tell the model its rows",
            holds=lambda ragged: ragged.offsets_input is not None or ragged.lengths_input is not None,
        ),
        Rule(
            cel="!has(self.offsetsInput) || !has(self.lengthsInput) || self.offsetsInput != self.lengthsInput",
            message="offsetsInput and lengthsInput must be two names",
            holds=lambda ragged: ragged.offsets_input is None or ragged.offsets_input != ragged.lengths_input,
        ),
    )


class BatchingSpec(Ruled):
    """How requests are gathered into tensor batches."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most rows in one batch."""
    max_batch_elements: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Most elements (tokens, pixels) of all inputs of one batch, padding included. Absent: no limit."""
    max_delay_microseconds: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """The longest an idle worker may wait for company, where waiting is expected to pay; 0: never waits."""
    max_queue_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Requests that may wait; the next one is answered 503 with Retry-After."""
    max_concurrent_streams: Annotated[int, Field(ge=1, le=4096)] = 64
    """Answers in chunks that one instance gives at once; beyond them a request is answered 503 with Retry-After."""
    target_latency_milliseconds: Annotated[int, Field(ge=1, le=600_000)] | None = None
    """Batches grow and shrink so that 99 % of the answers take at most this long. Absent: maxBatchSize alone counts."""
    priority: Priority = 5
    """Order in the queue from 1, the most urgent, to 9, of requests that bring no priority of their own."""
    device_share: Annotated[int, Field(ge=1, le=1000)] = 100
    """Weight of this model among those that compete for the same device."""
    padding: Annotated[tuple[PaddingSpec, ...], Field(max_length=MAX_VARIABLE_TENSORS), KeyedBy("input")] = ()
    """Inputs that are filled up to the longest of a batch. Absent: only requests of equal shapes share a batch."""
    ragged: RaggedSpec | None = None
    """Inputs whose rows are joined end to end, for models that take such batches."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.padding) || size(self.padding) == 0 || !has(self.ragged)",
            message="padding and ragged are two ways to batch different lengths: remove one",
            holds=lambda batching: not batching.padding or batching.ragged is None,
        ),
    )
