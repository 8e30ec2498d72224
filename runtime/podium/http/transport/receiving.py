"""What bodies that are coming in may hold of the pod's memory."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from podium.errors import Overloaded
from podium.ipc.arena import Arena


class BodiesFullError(Overloaded):
    """What bodies may hold is held already."""


@dataclass(slots=True)
class Receiving:
    """Bodies that are coming in hold at most half of the arena, or as much of the heap, so that answers always find
    room."""

    arena: Arena
    held_bytes: int = 0

    @property
    def limit_bytes(self) -> int:
        """Half of the arena."""
        return self.arena.size_bytes // 2

    def take(self, nbytes: int) -> None:
        """Counts bytes as held. Raises BodiesFullError where there is no room for them now."""
        if self.held_bytes + nbytes > self.limit_bytes:
            raise BodiesFullError(
                f"no room for {nbytes} bytes of input now; bodies may hold {self.limit_bytes} bytes", 1.0
            )
        self.held_bytes += nbytes

    def give(self, nbytes: int) -> None:
        """Counts them as given back."""
        self.held_bytes -= nbytes

    @contextlib.contextmanager
    def room(self, nbytes: int) -> Iterator[None]:
        """Holds them for a while. Raises BodiesFullError."""
        self.take(nbytes)
        try:
            yield
        finally:
            self.give(nbytes)
