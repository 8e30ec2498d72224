"""Moments to strike at: the operator or a container killed at a named point of a swap."""

from __future__ import annotations

import json
import signal
import time

from .agents import Agent, Process
from .installation import Installation
from .kubectl import Object
from .served import Served, is_ready, restarts
from .waiting import eventually


def operator_process(installation: Installation, agents: dict[str, Agent]) -> tuple[Agent, Process]:
    """The operator's PID 1 and the agent of its node, ready to be signalled at once."""
    pod = installation.operator()
    agent = agents[pod["spec"]["nodeName"]]
    return agent, agent.init(pod)


def replace_operator(installation: Installation) -> None:
    """Force the operator's pods away, so that a fresh one starts without the kubelet's back-off."""
    for pod in installation.operators():
        installation.kubectl.delete("pod", pod["metadata"]["name"], "--force", "--grace-period=0")


def promoted_in(config_map: Object) -> str | None:
    """The revision that an assignment ConfigMap promotes; None where it is no assignment."""
    text = config_map.get("data", {}).get("assignment.json")
    return json.loads(text).get("promoted") if text else None


def first_flip(served: Served, old: str, *, timeout: float = 90.0) -> list[Object]:
    """Return at the moment when some pod answers by another revision than `old`: the pods that still answer by it."""
    pods = [pod for pod in served.pods() if is_ready(pod)]
    by_pod: dict[str, str] = {}

    def ask() -> dict[str, str]:
        for pod in pods:
            by_pod[pod["metadata"]["name"]] = served.answer_of(pod)[1]
        return by_pod

    eventually("a pod flips", ask, lambda seen: any(name != old for name in seen.values()), timeout=timeout, every=0.03)
    return [pod for pod in pods if by_pod[pod["metadata"]["name"]] == old]


def kill_container(served: Served, pod: Object, agent: Agent) -> float:
    """SIGKILL PID 1 of the pod's container; returns when, once the container runs and is ready again."""
    before = restarts(pod)
    init = agent.init(pod)
    moment = time.time()
    agent.send(init)

    def same_pod() -> Object:
        return served.kubectl.get("pod", pod["metadata"]["name"])

    def back(seen: Object) -> bool:
        return restarts(seen) > before and is_ready(seen)

    eventually(f"{pod['metadata']['name']} is back", same_pod, back, timeout=90)
    return moment


class KillOnPromotion:
    """Kills the operator right after an assignment ConfigMap has promoted another revision than `old`.

    The operator is frozen at once, and let run a few milliseconds at a time until `flips` pods have taken the new
    revision, so that it can be said for certain how far the push had come when it died.
    """

    def __init__(self, served: Served, old: str, operator: tuple[Agent, Process], flips: int) -> None:
        self._served = served
        self._old = old
        self._agent, self._operator = operator
        self._flips = flips
        self.flipped = -1
        """How many pods had taken the new revision when the operator died."""

    def __call__(self, config_map: Object) -> bool:
        if promoted_in(config_map) in (None, self._old):
            return False
        self._agent.send(self._operator, signal.SIGSTOP)
        pods = self._served.pods()
        deadline = time.monotonic() + 30
        while (flipped := self._count(pods)) < self._flips and time.monotonic() < deadline:
            self._agent.send(self._operator, signal.SIGCONT)
            self._agent.send(self._operator, signal.SIGSTOP)
        self._agent.send(self._operator, signal.SIGKILL)
        self.flipped = flipped
        return True

    def _count(self, pods: list[Object]) -> int:
        return sum(self._served.report(pod)["promoted"] != self._old for pod in pods)
