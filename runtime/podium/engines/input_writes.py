"""Names the input that torch is about to write to, in place of the fault that the writing ends with.

Inputs are mapped read-only, which torch cannot express. To look at the arguments of each operation costs microseconds,
so a worker does it only where one before it ended with such a fault. What compiled code or numpy writes is not seen.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from podium.ipc.arena import address_of
from podium.ipc.tensor import Tensor

if TYPE_CHECKING:
    import torch


class InputWriteError(RuntimeError):
    """The model would have written to an input."""


def watching(inputs: Mapping[str, Tensor]) -> AbstractContextManager[object]:
    """Within, an operation of torch that writes to one of these read-only tensors raises InputWriteError."""
    given = {name: tensor for name, tensor in inputs.items() if tensor.nbytes}
    if "torch" not in sys.modules or not given:
        return nullcontext()
    return _mode({name: (address_of(tensor.data), tensor.nbytes) for name, tensor in given.items()})


def _mode(places: Mapping[str, tuple[int, int]]) -> AbstractContextManager[object]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        """Sees each operation before it runs, whoever asks for it in this thread."""

        def __torch_dispatch__(
            self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            """See torch."""
            named = kwargs or {}
            for index, argument in enumerate(operation._schema.arguments):
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                value = args[index] if index < len(args) else named.get(argument.name)
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    _check(tensor, operation, places)
            return operation(*args, **named)

    return Watch()


def _check(tensor: "torch.Tensor | None", operation: Callable[..., Any], places: Mapping[str, tuple[int, int]]) -> None:
    if tensor is None or tensor.device.type != "cpu":
        return
    address = tensor.untyped_storage().data_ptr()
    for name, (start, nbytes) in places.items():
        if start <= address < start + nbytes:
            raise InputWriteError(
                f"{operation} writes to input {name!r}; inputs are read-only, as others may read them: "
                "x = x / 255, not x /= 255"
            )
