"""What happened to one request, and when: kept only for requests that are traced or asked to be explained.

The request's own task carries its timeline in a context variable, as tracing libraries do: whatever works for the
request, in this task or in one started by it, notes its part there. Without one, nothing is noted and nothing is paid.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_STAGES = 512
"""Of one request; more are counted and not kept."""


class Stage(NamedTuple):
    """A part of a request's time. Monotonic seconds."""

    name: str
    """`queue`, `infer`, `step`, …"""
    start: float
    end: float
    subject: str = ""
    """The member or step that it is about."""
    facts: tuple[tuple[str, int | float | str], ...] = ()


@dataclass(slots=True)
class Timeline:
    """The stages of one request, in the order in which they ended."""

    stages: list[Stage] = field(default_factory=list)
    dropped: int = 0

    def add(self, stage: Stage) -> None:
        """A stage has ended."""
        if len(self.stages) < MAX_STAGES:
            self.stages.append(stage)
        else:
            self.dropped += 1


CURRENT: ContextVar[Timeline | None] = ContextVar("timeline", default=None)
"""The timeline of the request that this task works for."""
