"""How long each step of a graph takes of late, and what deadline that leaves for the steps before it.

The effective-deadline rule of Kao and Garcia-Molina (1994): a step must end so early that the steps after it, at their
95th percentile, still end in time. The slack belongs to whoever needs it first; a step that hiccups may use all of it,
which a fixed share for each step would forbid. Where the time is short already, it is split as the steps need it.
"""

from collections import deque

from podium.graph.plan import GraphPlan

KEPT = 64
"""Latest times of each step that count."""
LEAST = 8
"""Fewer than these say nothing."""
REFRESH_EVERY = 16
"""Observations between two looks at a step's times: they cost a sort."""
QUANTILE = 0.95


class Paces:
    """Of one revision's graph. One event loop's thread."""

    def __init__(self, plan: GraphPlan) -> None:
        self._plan = plan
        self._seen: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in plan.steps}
        self._news = dict.fromkeys(plan.steps, 0)
        self._own = dict.fromkeys(plan.steps, 0.0)
        self._after = dict.fromkeys(plan.steps, 0.0)

    def add(self, step: str, seconds: float) -> None:
        """A step has succeeded, after so long."""
        seen = self._seen[step]
        seen.append(seconds)
        self._news[step] += 1
        if len(seen) == LEAST or (len(seen) > LEAST and self._news[step] >= REFRESH_EVERY):
            self._news[step] = 0
            self._own[step] = sorted(seen)[int(QUANTILE * len(seen))]
            self._sum_up()

    def seconds(self, step: str) -> float:
        """Its 95th percentile; 0 where it is not known yet."""
        return self._own[step]

    def deadline(self, step: str, now: float, deadline: float) -> float:
        """When a step that begins `now` must have ended for the whole to end by `deadline`; all on one clock."""
        after = self._after[step]
        if not after:
            return deadline
        own = self._own[step] or after
        return deadline - min(after, (deadline - now) * after / (own + after))

    def _sum_up(self) -> None:
        """The longest way from each step's end to the end of the graph."""
        for name in reversed(tuple(self._plan.steps)):
            ways = (self._own[other] + self._after[other] for other in self._plan.dependents[name])
            self._after[name] = max(ways, default=0.0)
