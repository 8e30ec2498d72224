"""How long a resource has been unable to answer, with short outages forgiven and flapping not. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Outage:
    """Seconds down, filled while down and drained while up, so that a worker which comes up for a moment between two
    deaths does not begin the grace anew. Never above the grace.
    """

    down_s: float = 0.0
    is_down: bool = False
    looked_at: float | None = None

    def note(self, now: float, *, is_up: bool, grace_s: float) -> None:
        """What was seen at `now`; the time since the last look is taken to have been like that."""
        since = 0.0 if self.looked_at is None else now - self.looked_at
        self.looked_at = now
        self.is_down = not is_up
        self.down_s = max(0.0, self.down_s - since) if is_up else min(grace_s, self.down_s + since)

    def exceeds(self, grace_s: float) -> bool:
        """Whether it is down, and has been for all of the grace."""
        return self.is_down and self.down_s >= grace_s
