"""The fork server: imports an engine's libraries once, then forks workers from itself. Single-threaded, no CUDA.

Control socket, a stream. In: the engine kind and a newline; then for each worker one byte with three descriptors
(arena, bootstrap, journal). Out: four zero bytes when the imports are done; then four bytes for each worker, its pid.
Workers are forked twice, so that the front end (a subreaper) adopts them and gets their exit status.

It is started as a module of its own, or forked off the front end before that has threads (cli/early.py): then the
libraries that both need are in memory once.
"""

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from contextlib import suppress

from podium.worker.binding import PR_SET_PDEATHSIG, thread_count

CONTROL_FD = 3
EXIT_THREADS = 5
MAX_KIND_BYTES = 64
LIBRARIES = {
    "Python": ("numpy", "podium.worker.main", "podium.engines.python_engine"),
    "Handler": ("numpy", "podium.worker.main", "podium.engines.handler_engine"),
    # ONNX Runtime itself starts threads when it is imported, so each worker does that: 35 ms.
    "Onnx": ("numpy", "podium.worker.main", "podium.engines.onnx_engine"),
    "Torch": ("numpy", "podium.worker.main", "podium.engines.torch_engine"),
}
"""Engine kind → modules to have imported. Their thread pools are held to one thread by this process's environment."""


def main() -> None:
    """Serves fork requests on descriptor 3 until the front end closes the socket or ends."""
    run(socket.socket(fileno=CONTROL_FD), int(sys.argv[1]))


def run(control: socket.socket, parent_pid: int) -> None:
    """Learns the kind, imports, and serves fork requests until the front end closes the socket or ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit("the front end is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind = read_kind(control)
    if kind is None:
        return
    for library in LIBRARIES[kind]:
        importlib.import_module(library)
    rehearse(kind)
    if thread_count() != 1:
        print(f"podium fork server: {thread_count()} threads after the imports, expected 1", file=sys.stderr)
        sys.exit(EXIT_THREADS)
    gc.collect()
    gc.freeze()
    with suppress(ConnectionError):  # the front end has ended, in the middle of a word or before the first
        serve(control)


def rehearse(kind: str) -> None:
    """Has first-use work done here, for all workers. Where it cannot be done, each of them does it for itself."""
    from podium.engines import rehearsal

    try:
        rehearsal.REHEARSALS.get(kind, rehearsal.rehearse_python)()
    except Exception:  # noqa: BLE001 - an optimisation must not keep workers from being forked
        sys.excepthook(*sys.exc_info())


def read_kind(control: socket.socket) -> str | None:
    """The engine kind; None where the front end closes before it has said one."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = control.recv(1)
        if not byte or len(line) > MAX_KIND_BYTES:
            return None
        line += byte
    return line.decode().strip()


def serve(control: socket.socket) -> None:
    """Answers requests in order."""
    control.sendall(bytes(4))
    while True:
        request, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not request:
            return
        if len(fds) != 3:
            sys.exit(f"a fork request with {len(fds)} descriptors, expected 3")
        pid = fork_twice(control, fds)
        for fd in fds:
            os.close(fd)
        control.sendall(pid.to_bytes(4, "little"))


def fork_twice(control: socket.socket, fds: list[int]) -> int:
    """Pid of a new worker whose parent is about to be the front end."""
    read_end, write_end = os.pipe()
    middle = os.fork()
    if middle == 0:
        worker = os.fork()
        if worker == 0:
            os.close(read_end)
            os.close(write_end)
            control.close()
            become_worker(fds)
        os.write(write_end, worker.to_bytes(4, "little"))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        pid = int.from_bytes(pipe.read(4), "little")
    os.waitpid(middle, 0)
    return pid


def become_worker(fds: list[int]) -> None:
    """Never returns."""
    status = 1
    try:
        os.setsid()
        import numpy as np

        from podium.worker.main import run_worker

        np.random.seed()  # the legacy generator's state was copied by the fork
        status = run_worker(*fds)
    except BaseException:  # noqa: BLE001 - nothing may climb into the fork server's frames
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
