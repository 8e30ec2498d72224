"""A pod of the planner's world: what its runtime holds, which share of the requests it takes, and what it reports."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from podium_crds.assignment import (
    COMPARISON_BOUNDS_S,
    LOADED_STATES,
    Assignment,
    Counts,
    Failure,
    MemberReport,
    Report,
    RevisionReport,
    RevisionState,
)
from podium_crds.reasons import Reason
from podium_crds.shadow import Shadow, ShadowReport
from podium_operator.times import rfc3339

LOAD_S = 3


@dataclass
class Held:
    """A revision in a pod."""

    state: RevisionState
    loaded_at: datetime
    failure: Failure | None = None


@dataclass
class SimPod:
    """One pod: its container, its runtime, its place in routing."""

    name: str
    uid: str
    pool: str
    created: datetime
    gpus: int
    node: str | None = None
    running_since: datetime | None = None
    ready_since: datetime | None = None
    terminating_since: datetime | None = None
    applied: Assignment | None = None
    mounted: Assignment | None = None
    mounts: list[tuple[datetime, Assignment]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    shares: dict[str, int] = field(default_factory=dict)
    """Revision → percent of this pod's requests."""
    answered: dict[str, Counts] = field(default_factory=dict)
    """What it counted since its shares changed."""
    reachable: bool = True
    restarts: int = 0
    shadow: ShadowReport = field(default_factory=ShadowReport)
    makes_copies: bool = True
    """False: a release of the runtime that knows nothing of copies."""

    @property
    def active(self) -> str | None:
        """The revision that answers most requests, if any."""
        return max(self.shares, key=lambda name: self.shares[name]) if self.shares else None

    @property
    def ready(self) -> bool:
        """As the readiness probe has it."""
        return self.ready_since is not None and self.terminating_since is None

    def settle(
        self, now: datetime, fails: Mapping[str, Reason], crashes: Container[str], only_alone: Container[str]
    ) -> list[str]:
        """Does what is assigned, as far as it can by now; the revisions that it begins to load. `fails` never load, the
        workers of `crashes` keep dying once they are asked anything, and `only_alone` have no other beside them."""
        if self.applied is None:
            return []
        wanted = {revision.name for revision in self.applied.revisions}
        begun = sorted(wanted - self.held.keys())
        for name in begun:
            self.held[name] = Held(RevisionState.LOADING, now + timedelta(seconds=LOAD_S))
        for name, held in self.held.items():
            if held.state is RevisionState.LOADING and held.loaded_at <= now:
                reason = fails.get(name) or self._refusal(name, only_alone)
                held.state = RevisionState.FAILED if reason else RevisionState.READY
                if reason is not None:
                    held.failure = Failure(reason=reason, message=f"told to end as {reason}", time=rfc3339(now))
        self._route(self.applied)
        for name in list(self.held):
            if name not in wanted and self.held[name].state is not RevisionState.ACTIVE:
                del self.held[name]
        # A pod that serves nothing yet may take a correction at once, though its mount still names what was before.
        assert len(self.held) <= 2 or self.active is None, f"{self.name} holds {sorted(self.held)}"
        if self.active is not None and self.active in crashes:
            self._crash(self.active, now)
        elif self.active is not None and self.ready_since is None:
            self.ready_since = now
        return begun

    def _refusal(self, name: str, only_alone: Container[str]) -> Reason | None:
        """As a pod refuses what has no room beside what is loaded."""
        beside = [each for each, held in self.held.items() if each != name and held.state in LOADED_STATES]
        crowded = bool(beside) and any(each in only_alone for each in (name, *beside))
        return Reason.INSUFFICIENT_MEMORY_FOR_OVERLAP if crowded else None

    def _crash(self, name: str, now: datetime) -> None:
        """Another revision that is loaded takes over, as routing in the pod has it; else the pod is not ready."""
        said = Failure(reason=Reason.RUNTIME_CRASH_LOOP, message="its workers keep dying", time=rfc3339(now))
        self.held[name].failure = said
        other = next((each for each, held in self.held.items() if each != name and held.state in LOADED_STATES), None)
        if other is None:
            self.ready_since = None
            return
        self.shares = {other: 100}
        self.held[other].state, self.held[name].state = RevisionState.ACTIVE, RevisionState.READY

    def _route(self, applied: Assignment) -> None:
        able = {
            target.revision: target.weight
            for target in applied.traffic
            if target.weight and (held := self.held.get(target.revision)) is not None and held.state in LOADED_STATES
        }
        total = sum(able.values())
        shares = {name: round(100 * weight / total) for name, weight in able.items()} or self.shares
        if shares != self.shares:
            self.shares, self.answered = shares, {}
            self.shadow = ShadowReport(policy=self.shadow.policy)
        self._shadow(applied.shadow)
        for name, held in self.held.items():
            if held.state in LOADED_STATES:
                held.state = RevisionState.ACTIVE if name in shares else RevisionState.READY

    def _shadow(self, policy: Shadow | None) -> None:
        candidate = self.held.get(policy.revision) if policy is not None else None
        wanted = policy if candidate is not None and candidate.state in LOADED_STATES else None
        if wanted != self.shadow.policy:
            self.shadow = ShadowReport(policy=wanted)

    def restart(self, now: datetime) -> None:
        """Memory is gone; the durable assignment and the mount are there."""
        self.held.clear()
        self.shares, self.answered, self.shadow = {}, {}, ShadowReport()
        self.ready_since, self.running_since = None, None
        self.restarts += 1
        self.created = now

    def answer(self, requests: int, *, fails: str | None, slow: str | None) -> None:
        """Counts so many requests by its shares, each of 10 ms, those of `slow` of 100 ms."""
        for name, share in self.shares.items():
            answers = round(requests * share / 100)
            seconds = 0.1 if name == slow else 0.01
            before = self.answered.get(name, Counts())
            buckets = [answers if bound >= seconds else 0 for bound in COMPARISON_BOUNDS_S] + [answers]
            known = before.latency_buckets or (0,) * len(buckets)
            self.answered[name] = Counts(
                succeeded=before.succeeded + (0 if name == fails else answers),
                failed=before.failed + (answers if name == fails else 0),
                latency_buckets=tuple(a + b for a, b in zip(known, buckets, strict=True)),
            )

    def copy(self, requests: int, *, fails: str | None, differs: set[str]) -> None:
        """Compares what the candidate answers to copies of so many requests. `differs`: who answers otherwise."""
        policy = self.shadow.policy
        if policy is None:
            return
        copies = requests * (100 - self.shares.get(policy.revision, 0)) * policy.percent // 10_000
        failed, differing = policy.revision == fails, policy.revision in differs
        before = self.shadow
        self.shadow = ShadowReport(
            policy=policy,
            compared=before.compared + (0 if failed else copies),
            mismatched=before.mismatched + (copies if differing and not failed else 0),
            failed=before.failed + (copies if failed else 0),
            worst="output 'y' is off by 1 where 0.001 is allowed" if differing else "",
        )

    def report(self) -> Report:
        """What its admin port says."""
        applied = self.applied
        return Report(
            runtime_version="0",
            pod_uid=self.uid,
            applied=applied.generation if applied else None,
            mounted=self.mounted.generation if self.mounted else None,
            assigned=tuple(r.name for r in applied.revisions) if applied else (),
            promoted=applied.promoted if applied else None,
            ready=self.ready,
            revisions=tuple(self._row(name, held) for name, held in sorted(self.held.items())),
        )

    def _row(self, name: str, held: Held) -> RevisionReport:
        digest = "sha256:" + (name.rpartition("-")[2] * 7)[:64]
        loaded = held.state in LOADED_STATES
        return RevisionReport(
            name=name,
            state=held.state,
            since=rfc3339(held.loaded_at),
            weight=self.shares.get(name, 0),
            shared_counts=self.answered.get(name, Counts()),
            shadow=self._compared(name),
            members=(MemberReport(name="minilm", load_hash="x", digest=digest),) if loaded else (),
            last_failure=held.failure,
        )

    def _compared(self, revision: str) -> ShadowReport | None:
        if not self.makes_copies:
            return None
        is_candidate = self.shadow.policy is not None and self.shadow.policy.revision == revision
        return self.shadow if is_candidate else ShadowReport()
