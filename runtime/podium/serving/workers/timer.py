"""`PreciseTimer`: wakes the event loop to the microsecond, where the loop's own timers are rounded to milliseconds.

uvloop counts in whole milliseconds, which is longer than most batches take. A timerfd is one more descriptor for epoll.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

CLOCK_MONOTONIC = 1
TFD_NONBLOCK = os.O_NONBLOCK
TFD_CLOEXEC = os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """One alarm at a time, on the monotonic clock. Used from one event loop; `close` it."""

    def __init__(self, callback: Callable[[], None]) -> None:
        """Opens nothing before it is first armed: most models never wait."""
        self._callback = callback
        self._fd: int | None = None
        self._at: float | None = None

    @property
    def at(self) -> float | None:
        """When it rings, in monotonic seconds; None where it is not armed."""
        return self._at

    def arm(self, at: float | None) -> None:
        """Rings once at `at` (at once where that is past), and not at what was set before; None: not at all."""
        if at == self._at:
            return
        if self._fd is None:
            if at is None:
                return
            self._open()
        self._at = at
        # All zero would disarm it; a time that is past rings at once.
        nanoseconds = 0 if at is None else max(1, int(at * 1e9))
        self._set(nanoseconds)

    def close(self) -> None:
        """Gives the descriptor back. Idempotent."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = self._at = None

    def _open(self) -> None:
        # os.timerfd_create exists from Python 3.13 on.
        fd = _LIBC.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._ring)

    def _set(self, nanoseconds: int) -> None:
        value = _Timespec(*divmod(nanoseconds, 1_000_000_000))
        spec = _Itimerspec(_Timespec(0, 0), value)
        if _LIBC.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _ring(self) -> None:
        assert self._fd is not None
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # it was set anew after it had rung
        if self._at is not None and self._at <= time.monotonic():
            self._at = None
            self._callback()
