"""When a batch closes, how large it may be, and who cannot make it. PURE: every time is an argument, in seconds.

Work-conserving: an idle worker gets what waits at once, unless waiting pays. While a worker is busy the next batch
stays open, since nothing asks for it until a worker frees. Waiting pays when a companion is expected within the wait
and what it saves, the fixed part of a forward, is more than the delay it costs those who wait; the idea of learning
both from traffic follows BentoML's adaptive batching and Clipper (NSDI 2017), refusing what cannot make it Clockwork
(OSDI 2020) and Nexus (SOSP 2019).
"""

from dataclasses import dataclass, field

from podium.batching.layouts import Bucket
from podium.batching.service import ServiceTimes
from podium.batching.sizing import SizeCap

FORGET = 0.9
"""Weight of the past in each estimate of arrivals: about the last ten count."""
SILENCE = 3.0
"""Expected gaps without an arrival after which nobody is expected any more."""
STRETCH_FORGET = 0.8
MAX_STRETCH = 50.0
RETURNS_FORGET = 0.8
LIKELY = 0.75
"""Share of answered clients that must come back for the others to be made to wait for them."""
PATIENCE = 1.5
"""How much longer than it has taken them so far is waited."""
SLIP_FORGET = 0.9
SLIP_DEVIATIONS = 4.0


@dataclass(slots=True)
class ArrivalGap:
    """Expected seconds between two requests, by exponential averaging."""

    mean_s: float | None = None
    """None until two have come."""
    last: float | None = None

    def observe(self, now: float) -> None:
        """A request came."""
        if self.last is not None:
            gap = max(0.0, now - self.last)
            self.mean_s = gap if self.mean_s is None else FORGET * self.mean_s + (1 - FORGET) * gap
        self.last = now

    def expected_s(self, now: float) -> float | None:
        """Seconds until the next one; None where that is unknown, or the silence says that nobody comes."""
        if self.mean_s is None or self.last is None or now - self.last > SILENCE * self.mean_s:
            return None
        return self.mean_s


@dataclass(slots=True)
class Returns:
    """Clients that ask again as soon as they are answered: how many of those do, and how soon. Learned by exponential
    averaging over batches, from as many arrivals after an answer as it answered.

    Many such clients fall into groups that take turns: while one's batch runs the others wait, and each batch is as
    large as its group. A pause of the worker, as long as those who were just answered need to ask again, makes one
    group of them.
    """

    share: float = 0.0
    seconds: float = 0.0
    """From an answer to the last who came back."""
    _since: float | None = None
    _answered: int = 0
    _came: int = 0
    _last: float = 0.0

    def answered(self, requests: int, now: float) -> None:
        """A batch of so many was answered."""
        if self._since is not None and self._answered:
            new = 1 - RETURNS_FORGET
            self.share += new * (self._came / self._answered - self.share)
            if self._came:
                took = self._last - self._since
                self.seconds = took if not self.seconds else self.seconds + new * (took - self.seconds)
        self._since, self._answered, self._came = now, requests, 0

    def came(self, now: float, within_s: float) -> None:
        """A request came; counted as a return up to `within_s` after an answer."""
        if self._came < self._answered and self._since is not None and now - self._since <= within_s:
            self._came += 1
            self._last = now

    def pay(self, fixed_s: float) -> bool:
        """Whether those who are answered are likely to be back sooner than a forward of their own would cost."""
        return self.share >= LIKELY and PATIENCE * self.seconds < fixed_s

    def wait_s(self, now: float, most_s: float) -> float:
        """How long those who are missing should still be waited for."""
        if self._since is None or self._came >= self._answered:
            return 0.0
        return max(0.0, self._since + min(most_s, PATIENCE * self.seconds) - now)


@dataclass(slots=True)
class Slip:
    """How far answers come from where they were predicted: mean and mean deviation, as RFC 6298 follows round trips.

    An overloaded model takes whatever it predicts to be just in time, so that without a margin the least error makes
    all of it late.
    """

    mean_s: float = 0.0
    deviation_s: float | None = None
    """None until anything is known."""

    def observe(self, seconds: float) -> None:
        """An answer came so much after its prediction; before it: negative."""
        if self.deviation_s is None:
            self.mean_s, self.deviation_s = seconds, abs(seconds) / 2
            return
        apart = seconds - self.mean_s
        self.mean_s += (1 - SLIP_FORGET) * apart
        self.deviation_s += (1 - SLIP_FORGET) * (abs(apart) - self.deviation_s)

    def margin_s(self, most_s: float) -> float:
        """What a prediction should leave before a deadline, at most `most_s`; all of that until anything is known."""
        if self.deviation_s is None:
            return most_s
        return min(most_s, max(0.0, self.mean_s) + SLIP_DEVIATIONS * self.deviation_s)


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """What the policy sees of the batch that would close next."""

    rows: int
    oldest_arrival: float
    earliest_deadline: float
    bucket: Bucket = ()


@dataclass(slots=True)
class BatchPolicy:
    """Limits of one model and what was learned of its traffic."""

    cap: SizeCap
    max_delay_s: float = 0.0
    service: ServiceTimes = field(default_factory=ServiceTimes)
    arrivals: ArrivalGap = field(default_factory=ArrivalGap)
    returns: Returns = field(default_factory=Returns)
    slip: Slip = field(default_factory=Slip)
    hand_off_s: float = 0.0
    """What a round trip takes beside the model; learned."""
    stretch: float = 1.0
    """How much longer a batch's turn takes than its run: what others on the device and hand-offs add; learned."""

    def wait_s(self, batch: OpenBatch, now: float) -> float:
        """How long an idle worker should still wait for company; 0: close the batch now."""
        slack_s = self._slack_s(batch, now)
        if slack_s <= 0 or batch.rows >= self.cap.rows:
            return 0.0
        if self.expects_returns(batch.bucket) and (back_s := self.returns.wait_s(now, self.max_delay_s)) > 0:
            return min(back_s, slack_s)
        remaining = min(self.max_delay_s - (now - batch.oldest_arrival), slack_s)
        if remaining <= 0:
            return 0.0
        gap = self.arrivals.expected_s(now)
        if gap is None or gap > remaining:
            return 0.0
        return min(gap, remaining) if self.service.fixed(batch.bucket) > batch.rows * gap else 0.0

    def expects_returns(self, bucket: Bucket) -> bool:
        """Whether a worker should be idle until those it has just answered have asked again."""
        return self.max_delay_s > 0 and self.returns.pay(self.service.fixed(bucket))

    def observe_hand_off(self, seconds: float) -> None:
        """What a round trip took beside the model."""
        self.hand_off_s = seconds if not self.hand_off_s else FORGET * self.hand_off_s + (1 - FORGET) * seconds

    def observe_turn(self, seconds: float, run_s: float) -> None:
        """While requests waited, the next batch began `seconds` after one that was expected to take `run_s`."""
        if run_s > 0:
            ratio = min(MAX_STRETCH, max(1.0, seconds / run_s))
            self.stretch = STRETCH_FORGET * self.stretch + (1 - STRETCH_FORGET) * ratio

    def predicted_wait_s(self, rows_ahead: int, bucket: Bucket, workers: int) -> float:
        """How long rows that come first keep the workers busy."""
        if not rows_ahead:
            return 0.0
        cap = self.cap.rows
        full, rest = divmod(rows_ahead, cap)
        seconds = full * self.service.seconds(bucket, cap) + (self.service.seconds(bucket, rest) if rest else 0.0)
        return seconds * self.stretch / max(1, workers)

    def slip_s(self, bucket: Bucket) -> float:
        """What a prediction leaves before a deadline for its own error: at most one full batch's turn, so that a wrong
        estimate cannot keep requests out for long."""
        return self.slip.margin_s(self.service.seconds(bucket, self.cap.rows) * self.stretch)

    def retry_after_s(self, waiting_rows: int, workers: int) -> float:
        """When a refused client may find room: what it takes to answer half of what waits; between 1 and 30 s."""
        return min(30.0, max(1.0, self.predicted_wait_s(waiting_rows, (), workers) / 2))

    def _slack_s(self, batch: OpenBatch, now: float) -> float:
        return batch.earliest_deadline - now - self.service.seconds(batch.bucket, batch.rows + 1)
