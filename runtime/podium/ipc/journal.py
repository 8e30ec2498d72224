"""Which batch a worker began last, in a file that outlives it. Decides between asking again and giving up.

A message could say it, too, now that one is with the kernel when `send` returns; but each would wake the front end. A
write to a memfd is complete when it returns, and is read only after a death: no message, no wake-up per batch.
"""

import os
from struct import Struct

_BATCH = Struct("<Q")


def create_journal() -> int:
    """A descriptor for one life of a worker. The caller closes its copy."""
    return os.memfd_create("podium-journal", os.MFD_CLOEXEC)


class Journal:
    """One side's access; the descriptor stays its owner's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def begin(self, batch: int) -> None:
        """From now on the worker's death means that work may have been done on this batch."""
        os.pwrite(self._fd, _BATCH.pack(batch), 0)

    def last(self) -> int | None:
        """The batch begun last, None where there was none."""
        data = os.pread(self._fd, _BATCH.size, 0)
        return _BATCH.unpack(data)[0] if len(data) == _BATCH.size else None
