"""Where things lie: what one machine's user keeps between clusters, and what one cluster owns."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTERS = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """Per-user cache: binaries, build storage, image layers. Safe to delete while nothing of it runs."""
    chosen = os.environ.get("PODIUM_CACHE")
    if chosen:
        return Path(chosen) / "podium"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "podium"


def state_dir() -> Path:
    """What the cluster of this checkout owns; removed by `down`, and ignored by git."""
    return REPOSITORY / ".podium" / "cluster"
