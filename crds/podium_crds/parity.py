"""What a user asks of shadowing: how many requests the new revision sees, and how alike its answers must be."""

from typing import Annotated

from pydantic import Field

from podium_crds.base import Decimal, Form, KeyedBy, Strict
from podium_crds.tensors import TensorName

_ListedDecimal = Annotated[
    str,
    Form(r"^[0-9]{1,9}([.][0-9]{1,9})?$", 'a decimal in quotes, such as "0.001"', inside_lists=True),
    Field(max_length=19),
]


class OutputParity(Strict):
    """How far one output of floats may be off."""

    name: TensorName
    """Name of the output."""
    absolute: _ListedDecimal = "0"
    """Largest absolute difference of a number."""
    relative: _ListedDecimal = "0"
    """Largest difference of a number as a part of what serves, added to absolute."""


class Parity(Strict):
    """Shadowing: a share of the requests that the serving revision has answered is run by the new one in the same pod,
    too. Its answers are compared and thrown away: clients wait for none of it."""

    shadow_percent: Annotated[int, Field(ge=1, le=100)]
    """Share of the requests that are copied. Streams are not."""
    tolerance: Decimal = "0.001"
    """How far a float may be off, as an absolute difference and as a part of what serves, added up. Integers, booleans
    and text must be equal, and so must shapes."""
    outputs: Annotated[tuple[OutputParity, ...], Field(max_length=16), KeyedBy("name")] = ()
    """Outputs of floats with a tolerance of their own."""
    max_mismatch_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Largest share of the copies that may differ, or that the new revision may fail to answer."""
    min_compared: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Copies that must have been judged in a step before it goes on. With fewer the step is held."""
    allow_side_effects: bool = False
    """Whether a request may be copied although its model may do something beside answering: a model that is neither
    idempotent nor run by Torch or Onnx, or one of other pods."""
