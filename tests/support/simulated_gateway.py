"""A gateway beside a simulated cluster: it answers for a route after a while, and follows it a while after that.

Between the two it may do as any route since the last one that it surely follows says, so each of them must be safe.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from podium_operator.rollout.actions import Plan
from podium_operator.state import Backends, ObservedRoute


@dataclass(frozen=True)
class Written:
    """A route as it was written."""

    at: datetime
    backends: Backends
    answered_at: datetime | None
    """None: never."""


@dataclass
class SimulatedGateway:
    """`answers_in`: seconds, None while its controller is away."""

    propagation: timedelta
    answers_in: int | None = 1
    written: list[Written] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    """Pools with a Service of their own."""

    def observed(self, now: datetime) -> ObservedRoute | None:
        """As `routes` would read it."""
        if not self.written:
            return None
        last = self.written[-1]
        answered = last.answered_at is not None and last.answered_at <= now
        return ObservedRoute(last.backends, last.at, answered)

    def take(self, plan: Plan, now: datetime) -> None:
        """What the operator writes before it performs the plan's actions."""
        wanted = plan.backends if self.written else Backends()
        if wanted is not None and (not self.written or wanted != self.written[-1].backends):
            assert wanted.service >= 1, "the Service of all pools never has weight 0"
            self.written.append(Written(now, wanted, self._answer(now)))
        self.services |= plan.pool_services
        if plan.drops_pool_services:
            named = {name for backends in self.may_follow(now) for name, weight in backends.pools.items() if weight}
            assert named <= plan.pool_services, "no Service goes that requests may be sent to"
            self.services &= plan.pool_services

    def come_back(self, now: datetime) -> None:
        """Its controller runs again."""
        self.answers_in = 1
        self.written = [Written(each.at, each.backends, each.answered_at or self._answer(now)) for each in self.written]

    def may_follow(self, now: datetime) -> list[Backends]:
        """Everything that it may do now."""
        sure = [
            position
            for position, each in enumerate(self.written)
            if each.answered_at is not None and max(each.answered_at, each.at + self.propagation) <= now
        ]
        return [each.backends for each in self.written[max(sure, default=0) :]]

    def share(self, pods: dict[str, int], new: str) -> Fraction:
        """Of the pool `new`, by the last route. `pods`: ready ones by pool."""
        backends = self.written[-1].backends
        total = backends.service + sum(backends.pools.values())
        natural = Fraction(pods.get(new, 0), sum(pods.values()))
        return (backends.service * natural + backends.pools.get(new, 0)) / total

    def _answer(self, now: datetime) -> datetime | None:
        return None if self.answers_in is None else now + timedelta(seconds=self.answers_in)
