"""Takes a built cluster off the machine, whatever state it is in; and knows whose cluster the machine runs."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from . import images, network, nodes, remnants
from .base import ClusterError
from .topology import Site

_OWNER = Path("/run/podium-cluster.json")


def claim(site: Site) -> None:
    """Record that the machine's bridge, addresses and packet-filter rules are this cluster's."""
    _OWNER.write_text(json.dumps({"state": str(site.state)}))


def owner() -> Site | None:
    """The cluster that last claimed the machine and has not been removed."""
    with contextlib.suppress(FileNotFoundError):
        return Site(Path(json.loads(_OWNER.read_text())["state"]))
    return None


def clear_for(site: Site) -> None:
    """Remove what is left of another checkout's cluster; raise if that cluster is alive and its checkout there."""
    other = owner()
    if other is None or other == site:
        return
    if other.state.exists() and all(daemon.alive for daemon in other.daemons.recorded()):
        raise ClusterError(f"this machine runs the cluster of {other.state.parent.parent}; take that one down first")
    remove(other)


def remove(site: Site) -> None:
    """Remove everything of a cluster but its logs. Safe to call twice, and on what a killed session left."""
    for daemon in reversed(site.daemons.recorded()):
        # Nothing that these programs would save is kept, so there is nothing to wait for.
        site.daemons.stop(daemon.name, grace=2.0)
    mine = owner() in {None, site}
    for node in site.nodes:
        if mine:
            nodes.remove_from_machine(node)
        nodes.remove(node)
    if mine:
        network.down(site)
        images.release()
        _OWNER.unlink(missing_ok=True)
    for folder in (site.run, site.state):
        remnants.unmount_below(folder)
    shutil.rmtree(site.run, ignore_errors=True)
    for entry in site.state.iterdir() if site.state.exists() else ():
        if entry.is_file():
            entry.unlink()
        elif entry.name != "logs":
            shutil.rmtree(entry)
