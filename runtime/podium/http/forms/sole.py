"""The one input of models whose requests name none. Pure."""

from math import prod

from podium.errors import InvalidInput
from podium.ipc.tensor import NUMPY_DTYPES
from podium.serving.revisions.contract import Contract, described
from podium_crds.tensors import TensorSpec


def sole_input(contract: Contract) -> tuple[str, TensorSpec]:
    """The input of a body that names none. Raises InvalidInput where the model declares another number of them."""
    specs = contract.inputs
    wanted = [name for name in specs if name in contract.required] or list(specs)
    spec = specs[wanted[0]] if len(wanted) == 1 else None
    if spec is None:
        raise InvalidInput(
            f"such a body is for models that declare one input; this one declares {len(wanted)}: "
            "name them, as JSON or with the binary extension"
        )
    return wanted[0], spec


def shape_of(spec: TensorSpec, nbytes: int) -> tuple[int, ...]:
    """The shape that so many bytes have; at most one dimension of the spec may be open. Raises InvalidInput."""
    fixed = NUMPY_DTYPES[spec.dtype].itemsize * prod(dim for dim in spec.shape if dim != -1)
    is_open = spec.shape.count(-1)
    if is_open > 1:
        raise InvalidInput(f"input {spec.name!r} has {is_open} open dimensions: send its shape along")
    rows = nbytes // fixed if is_open and fixed else 1
    if fixed * rows != nbytes:
        raise InvalidInput(f"{nbytes} bytes are no {described(spec)}: expected a multiple of {fixed}")
    return tuple(rows if dim == -1 else dim for dim in spec.shape)
