"""Faults caused from outside a container: signals to its processes, sent from a privileged pod of the same node.

A process cannot be killed from inside when it is PID 1 of its namespace, and the nodes of a cluster need not be this
machine, so that every kind of cluster gets the same agent. A session stays open: a signal takes milliseconds.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .kubectl import Kubectl, Object

_NAME = "agent"
_SCRIPT = Path(__file__).with_name("agent_script.py")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a container, as its node sees it."""

    pid: int
    inside: int
    """Its id inside the container; 1 is the container's own."""
    name: str
    command: str


def objects(image: str) -> list[Mapping[str, Any]]:
    """The agent's DaemonSet and its script, for `kubectl apply`."""
    labels = {"app": _NAME}
    container = {
        "name": "agent",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import signal, sys; signal.signal(15, lambda *_: sys.exit()); signal.pause()"],
        "securityContext": {"privileged": True, "runAsUser": 0, "runAsNonRoot": False},
        "volumeMounts": [{"name": "script", "mountPath": "/agent"}],
    }
    pod = {
        "hostPID": True,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "script", "configMap": {"name": _NAME}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _NAME}, "data": {"a.py": _SCRIPT.read_text()}},
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": _NAME},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]


class Agent:
    """An open session with the agent of one node."""

    def __init__(self, kubectl: Kubectl, node: str) -> None:
        """`kubectl` is bound to the namespace of the agents. Nothing is started yet."""
        self._kubectl = kubectl
        self._node = node
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        pods = self._kubectl.list("pods", selector=f"app={_NAME}")
        pod = next(pod for pod in pods if pod["spec"]["nodeName"] == self._node)["metadata"]["name"]
        argv = self._kubectl.argv("exec", "-i", pod, "--", "python3", "-u", "/agent/a.py")
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait(10)

    def processes(self, pod: Object, container: str = "") -> list[Process]:
        """The processes of a pod's container, the first one unless it is named."""
        statuses = pod["status"]["containerStatuses"]
        chosen = next(each for each in statuses if container in ("", each["name"]))
        identity = chosen["containerID"].rpartition("/")[2]
        return [Process(**each) for each in self._ask({"list": identity})]

    def init(self, pod: Object, container: str = "") -> Process:
        """PID 1 of a pod's container."""
        return next(each for each in self.processes(pod, container) if each.inside == 1)

    def send(self, process: Process, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process."""
        self._ask({"signal": int(number), "pid": process.pid})

    def _ask(self, command: Mapping[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the agent of {self._node} ended")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"the agent of {self._node}: {answer['error']} for {command}")
        return answer["ok"]
