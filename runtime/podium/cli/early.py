"""What `podium serve` does before it imports the front end: it forks off what will be its fork servers.

So the engine's libraries are imported while the front end's are (torch takes longer than all of ours), and what both
need is in memory once: numpy, pydantic and the wire. Only a process without threads may be forked, hence here.
"""

import gc
import importlib
import itertools
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from podium.serving.workers.begun import BegunServer

SHARED = ("numpy", "podium.ipc.channel", "podium.ipc.bootstrap", "podium.ipc.view", "podium_crds.assignment")
"""What front end and workers both import."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""Both as in podium.serving.workers.process, which is too much to import here."""
FORKED = ("Torch", "Onnx", "Handler", "Python")
ENGINE = re.compile(rf"""["']?(?:engine|kind)["']?:\s*["']?({"|".join(FORKED)})\b""")
MAX_BYTES = 1 << 20
"""Of each file that is looked through for engines."""


def begin(arguments: Sequence[str], environment: Mapping[str, str]) -> list[BegunServer]:
    """Children for the engines that will most likely be asked for, else one that waits to be told. Empty: none can be.

    `arguments`: of the command line. Imports SHARED into this process, with numeric libraries held to one thread.
    """
    if has_gpu():
        return []  # CUDA does not survive a fork
    os.environ.update({**dict.fromkeys(THREAD_VARIABLES, "1"), **NO_TELEMETRY})
    for module in SHARED:
        importlib.import_module(module)
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 - entries, not paths
        return []
    gc.freeze()
    return [_begin(kind) for kind in likely_kinds(arguments, environment) or (None,)]


def likely_kinds(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Engines that the files named on the command line mention, or the assignment that this pod will come up with."""
    found: set[str] = set()
    for path in _sources(arguments, environment):
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            found.update(ENGINE.findall(file.read(MAX_BYTES)))
    return tuple(kind for kind in FORKED if kind in found)


def has_gpu() -> bool:
    """Whether this container has an NVIDIA device node."""
    return any(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def _sources(arguments: Sequence[str], environment: Mapping[str, str]) -> list[Path]:
    from podium_crds.keys import ASSIGNMENT_DIR, ASSIGNMENT_FILE, STATE_DIR

    if "--pod" in arguments:
        mounted = Path(environment.get("PODIUM_ASSIGNMENT_DIR", ASSIGNMENT_DIR)) / ASSIGNMENT_FILE
        return [mounted, Path(environment.get("PODIUM_STATE_DIR", STATE_DIR)) / ASSIGNMENT_FILE]
    pairs = itertools.pairwise(arguments)
    return [Path(value) for option, value in pairs if option in ("-f", "--file")]


def _begin(kind: str | None) -> BegunServer:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become_fork_server(theirs, parent)
    theirs.close()
    if kind is not None:
        ours.sendall(kind.encode() + b"\n")
    return BegunServer(pid, ours, kind)


def _become_fork_server(control: socket.socket, parent: int) -> None:
    """Never returns. What a spawned one is given by its command line is made up for here: `-P`, `-u`, no input."""
    status = 1
    try:
        os.setsid()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - before anything else is imported
            os.dup2(nothing.fileno(), 0)
        if sys.path and Path(sys.path[0]).resolve() == Path(sys.argv[0]).resolve().parent:
            del sys.path[0]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
        from podium.worker.forkserver import run

        run(control, parent)
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(ended.code + "\n")
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing may climb into the front end's frames
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
