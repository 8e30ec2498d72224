"""Where a pass heads."""

from dataclasses import dataclass

from podium_operator.rollout.strategy import Resolution
from podium_operator.state import Pool


@dataclass(frozen=True, slots=True)
class Course:
    """Where this pass heads: which revision should serve, from which pool, and how it gets there."""

    goal: str
    home: Pool | None
    """The pool that serves the goal, now or after an in-place swap. None: a new one is made."""
    resolution: Resolution
    waiting: str = ""
