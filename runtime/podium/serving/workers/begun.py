"""A fork server that was begun before the front end had imported much; see cli/early.py."""

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BegunServer:
    """A child that is, or will be, a fork server. Nobody waits for its pid yet."""

    pid: int
    control: socket.socket
    """This process's end of its control socket."""
    kind: str | None
    """The EngineKind that it was told of and imports meanwhile; None: it waits to be told."""
