"""The agent's side of a fault: commands in, one line out each, and real processes signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from e2e.support import agent_script

SCRIPT = Path(agent_script.__file__)


def test_a_process_is_found_by_its_cgroup_and_killed() -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    agent = subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    commands = [{"signal": int(signal.SIGKILL), "pid": victim.pid}, {"signal": 0, "pid": 2**30}, {"nonsense": 1}]
    said, _ = agent.communicate("".join(json.dumps(command) + "\n" for command in commands), timeout=30)
    answers = [json.loads(line) for line in said.splitlines()]
    assert answers[0] == {"ok": "sent"}
    assert ["error" in answer for answer in answers] == [False, True, True]
    assert victim.wait(30) == -signal.SIGKILL


def test_processes_are_told_with_their_ids_and_commands() -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()[0]
    found = agent_script.processes(own.rpartition(":")[2])
    mine = next(each for each in found if each["pid"] == os.getpid())
    assert isinstance(mine["inside"], int)
    assert "python" in str(mine["command"])
