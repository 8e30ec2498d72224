"""The `podium` command, as a user's shell runs it."""

from __future__ import annotations

import re
import subprocess
import sys

from .served import Served


def podium(served: Served, *words: str) -> str:
    """What one command printed, in the resource's namespace; fails where the command does."""
    place = ("-n", served.kubectl.namespace, "--kubeconfig", str(served.kubectl.kubeconfig))
    code = "from podium_operator.commands.app import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *place], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"podium {words}: {done.stdout}{done.stderr}"
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
