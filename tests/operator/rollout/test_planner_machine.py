"""Any sequence of edits, faults and operator deaths: the invariants hold at every action, and it converges after.

The world's own assertions run at each action (capacity, ConfigMap before promotion, at most two revisions in a pod,
nothing in use deleted); here the sequence is what hypothesis chooses.
"""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.builders import a_desired
from tests.support.simulated_cluster import SimulatedCluster, remembered, retargeted

from podium_operator.state import Desired, Facts, Hand, Stage

ROLLOUT = {"propagationSeconds": 2, "rollbackWindowSeconds": 15}
VERSIONS = ("1", "2", "3", "4")
SHAPES = ("blue", "green")
BROKEN = "3"
LARGE = "4"
"""Pods have no room for another one beside it."""
DIFFERENT = "2"
"""Its answers differ from those of the others."""
CONVERGED_WITHIN = 600
STEPS = [{"weight": 30, "pauseSeconds": 4}, {"weight": 60, "pauseSeconds": 0}]
WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "in steps": {"steps": STEPS},
    "judged by counts": {"steps": STEPS, "analysis": {"maxErrorPercent": 10, "minRequests": 10}},
    "judged by copies": {
        "steps": [{"weight": 0, "pauseSeconds": 2}, *STEPS],
        "analysis": {"parity": {"shadowPercent": 50, "minCompared": 5}},
    },
}
"""What `rollout` says besides."""


def wanted(version: str, shape: str, replicas: int, *, way: str = "at once") -> Desired:
    return a_desired(
        version,
        replicas=replicas,
        idempotent=True,
        rollout={**ROLLOUT, **WAYS[way]},
        env=[{"name": "SHAPE", "value": shape}],
    )


class Rollouts(RuleBasedStateMachine):
    """One resource in one world."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimulatedCluster()
        self.version, self.shape, self.replicas = "1", "blue", 2
        self.way = "at once"
        self.desired = wanted(self.version, self.shape, self.replicas)
        for shape in SHAPES:
            self.world.fails.add(wanted(BROKEN, shape, 1).target.name)
            self.world.only_alone.add(wanted(LARGE, shape, 1).target.name)
            self.world.differs.add(wanted(DIFFERENT, shape, 1).target.name)
        self.failed_requests: set[str] = set()
        """Revisions that failed requests."""
        self.facts: Facts | None = None
        self.faults = False

    def _retarget(self) -> None:
        new = wanted(self.version, self.shape, self.replicas, way=self.way)
        self.desired = replace(retargeted(self.desired, new), hand=self.desired.hand)

    @rule(version=st.sampled_from(VERSIONS))
    def edit_version(self, version: str) -> None:
        self.version = version
        self._retarget()

    @rule(shape=st.sampled_from(SHAPES))
    def edit_shape(self, shape: str) -> None:
        self.shape = shape
        self._retarget()

    @rule(way=st.sampled_from(sorted(WAYS)))
    def edit_rollout(self, way: str) -> None:
        self.way = way
        self._retarget()

    @rule(requests=st.integers(1, 60), fails=st.booleans())
    def requests_come(self, requests: int, fails: bool) -> None:
        failing = self.desired.target.name if fails else None
        self.world.answer(requests, failing=failing)
        self.failed_requests |= {failing} if failing else set()

    @rule(word=st.sampled_from(["promote", "abort", "rollback", ""]))
    def the_user_takes_the_wheel(self, word: str) -> None:
        said = {word: self.desired.target.name} if word else {}
        self.desired = replace(self.desired, hand=Hand(**said))

    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self._retarget()

    @rule(seconds=st.integers(1, 8), passes=st.integers(1, 6))
    def time_passes(self, seconds: int, passes: int) -> None:
        for _ in range(passes):
            self.facts = self.world.step(self.desired)
            self.desired = remembered(self.desired, self.facts)
            self.world.tick(seconds)

    @rule(actions=st.integers(0, 3))
    def the_operator_dies_after_some_actions(self, actions: int) -> None:
        self.facts = self.world.step(self.desired, crash_after=actions)
        self.desired = remembered(self.desired, self.facts)

    @rule()
    def another_operator_takes_over(self) -> None:
        self.desired = replace(self.desired, lease_transitions=self.desired.lease_transitions + 1)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def a_pod_is_deleted(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.kill(self.world.pods[name])

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def a_container_restarts(self, data: st.DataObject) -> None:
        pod = self.world.pods[data.draw(st.sampled_from(sorted(self.world.pods)))]
        if pod.running_since is not None and pod.terminating_since is None:
            self.world.restart(pod)

    @invariant()
    def at_most_two_pools_have_pods_that_stay(self) -> None:
        pools = {pod.pool for pod in self.world.pods.values() if pod.terminating_since is None}
        assert len(pools) <= 2, self.world.log[-30:]

    def teardown(self) -> None:
        """After the last fault it comes to rest: the target serves, or it failed and the last good one does."""
        for _ in range(CONVERGED_WITHIN):
            before = len(self.world.log)
            self.world.answer(50)
            self.facts = self.world.step(self.desired)
            self.desired = remembered(self.desired, self.facts)
            self.world.tick(1)
            if len(self.world.log) == before and self._at_rest(self.facts):
                return
        raise AssertionError(f"not at rest: {self.facts}\n" + "\n".join(self.world.log[-40:]))

    def _at_rest(self, facts: Facts) -> bool:
        serving = self.world.serving()
        if self.replicas == 0:
            return not self.world.pods and facts.stage is Stage.SCALED_TO_ZERO
        hand = self.desired.hand
        if self.desired.target.name in (hand.abort, hand.rollback) and facts.stage is Stage.FAILED:
            # What never worked may be all there is to go back to.
            return facts.current is None or facts.current in self.world.fails or len(serving) == self.replicas
        if facts.canary is not None and "in a surge no pod does" in facts.waiting:
            return True  # until the user promotes the step
        if self.version == BROKEN:
            # What never completed is nothing to go back to: pods that got as far as serving it just stay.
            never_worked = facts.current is None or facts.current in self.world.fails
            went_back = never_worked or len(serving) == self.replicas
            return facts.stage is Stage.FAILED and went_back
        if facts.stage is Stage.FAILED and self.desired.target.name in self.world.differs | self.failed_requests:
            # Given up for what it answered, in this rollout or an earlier one; what went before serves.
            return len(serving) == self.replicas and self.desired.target.name not in serving
        return facts.complete and serving == [self.desired.target.name] * self.replicas


Rollouts.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRollouts = Rollouts.TestCase
