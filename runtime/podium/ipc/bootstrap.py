"""What a worker is told at its start, in a memfd of its own, so that no secret is in its arguments or environment."""

import importlib.util
import os
from enum import StrEnum

import msgspec

from podium.errors import ProtocolError

MAX_BOOTSTRAP_BYTES = 4 << 20
ARENA_FD = 3
BOOTSTRAP_FD = 4
JOURNAL_FD = 5
"""Numbers under which a spawned worker finds its three descriptors."""
FAMILY_VARIABLE = "PODIUM_FAMILY"
"""By which the guard knows whatever a model has started (podium.worker.guard)."""
SPARED = ("PODIUM_GUARD", "1")
"""Variable and value in the environment of an engine's own guard, which has work to do after the worker's end."""


def guard_arguments(mark: str = "", *files: str) -> tuple[str, ...]:
    """Python's arguments for a guard of this process (podium.worker.guard). Without site-packages and the package's own
    imports it is 8 MiB and up in 20 ms. Raises OSError."""
    spec = importlib.util.find_spec("podium.worker.guard")
    if spec is None or spec.origin is None:
        raise OSError("the module podium.worker.guard has no file")
    return ("-S", "-E", spec.origin, str(os.getpid()), mark, "=".join(SPARED), *files)


class Role(StrEnum):
    """What a worker runs of its member."""

    MODEL = "model"
    CODECS = "codecs"
    """The model's own codecs, without the model."""


class Bootstrap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start parameters of one life of a worker."""

    endpoint: str
    """Path of the front end's socket."""
    peer: bytes
    """Whom the worker says it is: instance and epoch."""
    epoch: int
    token: bytes
    parent_pid: int
    """The front end: the worker ends with it."""
    arena_bytes: int
    inline_bytes: int
    """Outputs of a batch up to this size go in the message."""
    artifact_dir: str
    device: str
    member: str
    """podium_crds.assignment.Member as JSON, without artifact and probes."""
    load_bytes: int | None = None
    """How much more memory the load may map, its artifact apart; None: the front end alone watches it."""
    role: Role = Role.MODEL
    watches_inputs: bool = False
    """A worker before it ended with a fault: torch's writes to inputs are looked for."""
    family: str = ""
    """What the worker puts into its environment under FAMILY_VARIABLE, for all that it starts; empty: nothing."""


def write_bootstrap(bootstrap: Bootstrap) -> int:
    """A descriptor from which the parameters can be read once. The caller closes it."""
    fd = os.memfd_create("podium-bootstrap", os.MFD_CLOEXEC)
    data = memoryview(msgspec.msgpack.encode(bootstrap))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_bootstrap(fd: int) -> Bootstrap:
    """Reads and closes. Raises ProtocolError."""
    with os.fdopen(fd, "rb") as file:
        try:
            return msgspec.msgpack.decode(file.read(MAX_BOOTSTRAP_BYTES), type=Bootstrap)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"start parameters cannot be read: {error}") from error
