"""The fork server: imports an engine's libraries once, then forks workers from itself. Single-threaded, no CUDA.

Control socket on descriptor 3, a stream. In: one byte with three descriptors (arena, bootstrap, journal).
Out: four bytes, the worker's pid; first of all four zero bytes, sent when the imports are done. Workers are forked
twice, so that the front end (a subreaper) adopts them and gets their exit status.
"""

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys

from podium.worker.binding import PR_SET_PDEATHSIG, thread_count

CONTROL_FD = 3
EXIT_THREADS = 5
LIBRARIES = {
    "Python": ("numpy", "podium.worker.main", "podium.engines.python_engine"),
    "Handler": ("numpy", "podium.worker.main", "podium.engines.handler_engine"),
    # ONNX Runtime itself starts threads when it is imported, so each worker does that: 35 ms.
    "Onnx": ("numpy", "podium.worker.main", "podium.engines.onnx_engine"),
    "Torch": ("numpy", "podium.worker.main", "podium.engines.torch_engine"),
}
"""Engine kind → modules to have imported. Their thread pools are held to one thread by this process's environment."""


def main() -> None:
    """Serves fork requests until the front end closes the socket or ends."""
    kind, parent_pid = sys.argv[1], int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit("the front end is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in LIBRARIES[kind]:
        importlib.import_module(library)
    if thread_count() != 1:
        print(f"podium fork server: {thread_count()} threads after the imports, expected 1", file=sys.stderr)
        sys.exit(EXIT_THREADS)
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=CONTROL_FD))


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
