"""Runs in a privileged pod of a node: lists and signals processes of containers, one JSON command a line.

Standard library only; it is handed to the pod as it is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def processes(container: str) -> list[dict[str, object]]:
    """Every process whose cgroup names the container: host pid, pid inside, and command line."""
    found: list[dict[str, object]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if container not in (entry / "cgroup").read_text():
                continue
            status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        inside = int(status["NSpid"].split()[-1])
        found.append({"pid": int(entry.name), "inside": inside, "name": status["Name"], "command": command})
    return found


def carry_out(command: dict[str, object]) -> object:
    """One command: `{"list": container}` or `{"signal": number, "pid": pid}`."""
    if "list" in command:
        return processes(str(command["list"]))
    os.kill(int(str(command["pid"])), int(str(command["signal"])))
    return "sent"


def main() -> None:
    """Answer each line of stdin with one line."""
    for line in sys.stdin:
        try:
            answer: dict[str, object] = {"ok": carry_out(json.loads(line))}
        except (OSError, ValueError, KeyError) as exc:
            answer = {"error": repr(exc)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
