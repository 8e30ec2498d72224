"""The front end's side of the guard (podium.worker.guard), which outlives it to end what models have started."""

import os
import secrets
from contextlib import suppress

from podium.ipc.bootstrap import FAMILY_VARIABLE, guard_arguments
from podium.serving.workers.process import ChildProcess, spawn
from podium.telemetry.logging import get_logger

log = get_logger(__name__)

CONTROL_FD = 3
PID_ONE = 1


class Guard:
    """Told of workers. Used from one event loop."""

    def __init__(self, control: int, mark: str, process: ChildProcess) -> None:
        """Use `start`."""
        self._control = control
        self.mark = mark
        """What workers put into their environment."""
        self._process = process

    @classmethod
    def start(cls) -> "Guard | None":
        """Starts it. None for a container's first process: with it everything ends. Raises OSError."""
        if os.getpid() == PID_ONE:
            return None
        mark = secrets.token_hex(16)
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        try:
            process = spawn(guard_arguments(f"{FAMILY_VARIABLE}={mark}"), {CONTROL_FD: theirs}, {})
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        log.debug("guard_started", pid=process.pid)
        return cls(ours, mark, process)

    def watch(self, worker: ChildProcess) -> None:
        """A worker has been born; its end is told by itself."""
        self._tell(f"+{worker.pid}\n")
        worker.exited.add_done_callback(lambda _: self._tell(f"-{worker.pid}\n"))

    async def close(self) -> None:
        """Ends it: nobody is left for it to end. Idempotent."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
            self._process.kill()
            await self._process.exited

    def _tell(self, line: str) -> None:
        """A pipe takes thousands of lines; one that is full has nobody at its end, and no worker waits for it."""
        if self._control >= 0:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._control, line.encode())
