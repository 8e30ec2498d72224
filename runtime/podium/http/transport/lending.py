"""Tensors of answers, sent from where they lie: a slot is kept until the transport holds none of its bytes.

When `send` returns, a transport may hold all of an answer, and uvloop keeps pointers instead of copies. So what it gets
is a view over an object of its own, whose end says that nobody can read those bytes any more; the lease ends with it.
"""

import asyncio
import contextlib
import threading
import weakref
from dataclasses import replace

import numpy as np

from podium.http.transport.asgi import Answer, Piece
from podium.ipc.arena import Arena
from podium.ipc.lease import Lease, Slot
from podium.ipc.protocol import INLINE_BYTES
from podium.ipc.tensor import Tensor
from podium.telemetry.counting import BodyCounts

LENT_SHARE = 3
"""Answers on their way keep at most one in this many parts of the arena: with the half that bodies may hold, a sixth is
always there for what is computed meanwhile."""


class Lending:
    """Every slot that an answer is being sent from. Used from one event loop."""

    def __init__(self, arena: Arena) -> None:
        self._limit_bytes = arena.size_bytes // LENT_SHARE
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._views: dict[Slot, int] = {}
        """slot → views of it that somebody may still read."""
        self.held_bytes = 0

    def lent(self, answer: Answer, counts: BodyCounts) -> Answer:
        """The answer, no longer bound to the tensors' leases: large ones as views, small ones joined to what is before
        them. What finds no room among the slots that slow readers keep is copied."""
        pieces: list[list[Piece]] = [[answer.body]]
        for tensor in answer.tensors:
            counts.out_bytes += tensor.nbytes
            view = self._view(tensor) if tensor.nbytes > INLINE_BYTES else None
            if view is None:
                counts.out_copies += 1
                counts.out_copied_bytes += tensor.nbytes
                pieces[-1].append(tensor.data)
            else:
                pieces += ([view], [])
        body, *parts = [group[0] if len(group) == 1 else b"".join(group) for group in pieces if group]
        assert isinstance(body, bytes), "it begins with the answer's own"
        return replace(answer, body=body, tensors=(), parts=tuple(parts))

    def _view(self, tensor: Tensor) -> memoryview | None:
        """The tensor's bytes, readable as long as anybody refers to the view; None where there is no room for more."""
        lease = tensor.lease
        if lease is None:
            return tensor.data
        slot = lease.slot
        if slot not in self._views:
            if self.held_bytes + slot.capacity > self._limit_bytes:
                return None
            self.held_bytes += slot.capacity
        self._views[slot] = self._views.get(slot, 0) + 1
        tensor.retain()
        window = np.frombuffer(tensor.data, np.uint8)
        weakref.finalize(window, self._unread, lease).atexit = False
        return window.data

    def _unread(self, lease: Lease) -> None:
        """Nobody refers to a view any more. The garbage collector may say so in any thread."""
        if threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the arena with it
                self._loop.call_soon_threadsafe(self._unread, lease)
            return
        slot = lease.slot
        self._views[slot] -= 1
        if not self._views[slot]:
            del self._views[slot]
            self.held_bytes -= slot.capacity
        lease.release()
