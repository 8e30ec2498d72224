"""Finds views of the arena that a model keeps after it has answered.

Kept inputs would change under the model's hands when their slot is used again, and through a kept output it would write
into what is another's by then. So the front end is told which slots are still looked at and keeps them, and from then
on the model gets private copies of its inputs and private memory for its outputs: slower, and safe.
"""

import gc
import weakref

from podium.ipc.descriptor import Descriptor, TensorRef
from podium.ipc.tensor import Tensor


class HeldViews:
    """Watches the windows that were given to the model. Used by one thread."""

    def __init__(self) -> None:
        self.copying = False
        """True once the model was seen to keep a view."""
        self._windows: dict[int, list[weakref.ref[object]]] = {}
        """generation of the slot → windows of it that were given out."""

    def give(self, ref: TensorRef, tensor: Tensor) -> Tensor:
        """What the model gets for this input: the window, watched, or a copy of it."""
        if not isinstance(ref, Descriptor) or not tensor.nbytes:
            return tensor
        if self.copying:
            return Tensor(tensor.dtype, tensor.shape, memoryview(bytes(tensor.data)))
        self.watch(ref.generation, tensor.data.obj)
        return tensor

    def watch(self, generation: int, window: object) -> None:
        """Notes that a window of this slot was given out."""
        self._windows.setdefault(generation, []).append(weakref.ref(window))

    def generations(self) -> tuple[int, ...]:
        """Slots that the model still looks at. Call when nothing else refers to its inputs any more."""
        if self._windows and self._still_seen():
            gc.collect()  # a view in a reference cycle is garbage, not kept
            if self._still_seen():
                self.copying = True
        return tuple(self._windows)

    def _still_seen(self) -> bool:
        self._windows = {
            generation: alive
            for generation, windows in self._windows.items()
            if (alive := [window for window in windows if window() is not None])
        }
        return bool(self._windows)
