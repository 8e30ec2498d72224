"""Moments to strike at: the operator or a container killed at a named point of a swap."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass

from .agents import Agent, Process
from .installation import RELEASE, Installation
from .kubectl import Object
from .served import Served, is_ready, restarts
from .waiting import eventually
from .watching import Watch

_WATCH_DELAY_S = 0.15
"""Longer than an event of a watch is on its way on a busy machine, so that a slice is never the second too many."""


def operator_process(installation: Installation, agents: dict[str, Agent]) -> tuple[Agent, Process]:
    """The operator's PID 1 and the agent of its node, ready to be signalled at once."""
    pod = installation.operator()
    agent = agents[pod["spec"]["nodeName"]]
    return agent, agent.init(pod)


def leader(installation: Installation) -> str:
    """Name of the operator's pod that leads, empty where none does."""
    holder = installation.kubectl.get("lease", RELEASE)["spec"].get("holderIdentity") or ""
    return str(holder).partition("_")[0]


def leading_process(installation: Installation, agents: dict[str, Agent]) -> tuple[Agent, Process]:
    """PID 1 of the operator's pod that leads, and the agent of its node."""
    name = eventually("an operator leads", lambda: leader(installation), bool, timeout=60)
    pod = installation.kubectl.get("pod", name)
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


@dataclass(slots=True)
class KillInPromotion:
    """Kills or halts the operator while it promotes the next revision: after the ConfigMap, and after `flips` pods.

    It is halted while the candidate loads, and runs a few milliseconds at a time from then on, so that the moment is
    found, not guessed. Make it before the change is applied; `strike` after.
    """

    served: Served
    agent: Agent
    operator: Process
    flips: int
    old: str
    known: frozenset[str]
    """Revisions that the pods held before the change."""
    number: signal.Signals = signal.SIGKILL
    """What it is struck with; SIGSTOP leaves it to be woken later."""
    flipped: int = -1
    """How many pods had flipped when the operator was struck."""

    def strike(self) -> None:
        """Return once the operator is dead, or halted."""
        pods = self.served.pods()
        eventually("every pod has the candidate", lambda: all(map(self._holds, pods)), bool, timeout=120, every=0.05)
        self.agent.send(self.operator, signal.SIGSTOP)
        eventually("every pod has loaded", lambda: all(map(self._loaded, pods)), bool, timeout=60, every=0.05)
        deadline = time.monotonic() + 60
        self._until_written(deadline)
        while (flipped := sum(map(self._flipped, pods))) < self.flips:
            assert time.monotonic() < deadline, "the operator never pushed"
            _slice(self.agent, self.operator)
        self.agent.send(self.operator, self.number)
        self.flipped = flipped

    def _until_written(self, deadline: float) -> None:
        written: list[str] = []

        def promotes(config_map: Object) -> bool:
            found = promoted_in(config_map)
            if found in (None, self.old):
                return False
            written.append(str(found))
            return True

        with Watch(self.served.kubectl, "configmaps", promotes, selector=self.served.selector):
            while not written:
                assert time.monotonic() < deadline, "the operator never wrote the ConfigMap"
                _slice(self.agent, self.operator)
                time.sleep(_WATCH_DELAY_S)

    def _holds(self, pod: Object) -> bool:
        return any(each["name"] not in self.known for each in self.served.report(pod)["revisions"])

    def _loaded(self, pod: Object) -> bool:
        held = self.served.report(pod)["revisions"]
        return any(each["state"] in ("Ready", "Active") and each["name"] not in self.known for each in held)

    def _flipped(self, pod: Object) -> bool:
        return bool(self.served.report(pod)["promoted"] != self.old)


def kill_in_promotion(
    served: Served, operator: tuple[Agent, Process], flips: int, number: signal.Signals = signal.SIGKILL
) -> KillInPromotion:
    """Prepare to strike the operator in the promotion that follows the next change."""
    known = frozenset(each["name"] for pod in served.pods() for each in served.report(pod)["revisions"])
    return KillInPromotion(served, *operator, flips, served.current(), known, number)


def _slice(agent: Agent, process: Process) -> None:
    """Let a frozen process run for as long as it takes to freeze it again: a few milliseconds."""
    agent.send(process, signal.SIGCONT)
    agent.send(process, signal.SIGSTOP)
