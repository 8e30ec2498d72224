"""What is told of a traced request, and who takes it: values and one interface, without OpenTelemetry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from podium.telemetry.timeline import Timeline


class Place(Protocol):
    """A request's place in its trace, ids in hexadecimal."""

    @property
    def trace_id(self) -> str: ...
    @property
    def span_id(self) -> str: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def flags(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that was answered. Times: monotonic seconds, as all of its timeline."""

    name: str
    started: float
    ended: float
    status: int
    attributes: Mapping[str, str]


class Spans(Protocol):
    """Which requests are traced, and where their spans go."""

    def samples(self, place: Place) -> bool:
        """Whether this request is traced."""

    def record(self, place: Place, answered: Answered, timeline: Timeline) -> None:
        """Hands the spans of one request over: its own, and below it one for each stage. Never waits."""

    def close(self) -> None:
        """Sends what is left, for a few seconds. Blocking."""
