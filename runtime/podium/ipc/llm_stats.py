"""What an engine for language models measures, as plain numbers: sent by the worker, added up by the front end.

Counts and histograms are of one life of the worker, from zero; the three gauges are as of now.
"""

from typing import Annotated

import msgspec

FIRST_TOKEN_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
INTER_TOKEN_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)

Total = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Durations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A histogram: how many fell under each bound and above the last one, not cumulative, and their sum."""

    buckets: Annotated[tuple[Total, ...], msgspec.Meta(max_length=64)]
    sum_s: Seconds = 0.0

    def plus(self, other: "Durations") -> "Durations":
        """Both together. They have the same bounds."""
        buckets = tuple(a + b for a, b in zip(self.buckets, other.buckets, strict=True))
        return Durations(buckets, self.sum_s + other.sum_s)


class LlmStats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measures of one worker, or of several added up."""

    running: Total = 0
    """Requests in the engine's batch."""
    waiting: Total = 0
    """Requests that the engine has taken and not begun."""
    kv_usage: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of the KV cache in use; of several workers, the fullest one's."""
    prompt_tokens: Total = 0
    generated_tokens: Total = 0
    preemptions: Total = 0
    """Requests that lost their KV cache to others and began again."""
    prefix_queries: Total = 0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: Total = 0
    """Of those, found."""
    first_token: Durations = Durations((0,) * (len(FIRST_TOKEN_BOUNDS_S) + 1))
    """From the engine's taking a request to its first token."""
    inter_token: Durations = Durations((0,) * (len(INTER_TOKEN_BOUNDS_S) + 1))
    """Between two tokens of one request."""

    @property
    def is_sound(self) -> bool:
        """Whether the histograms have their bounds: the sender may be of another release, or hostile."""
        return (len(self.first_token.buckets), len(self.inter_token.buckets)) == (
            len(FIRST_TOKEN_BOUNDS_S) + 1,
            len(INTER_TOKEN_BOUNDS_S) + 1,
        )

    def plus(self, other: "LlmStats") -> "LlmStats":
        """Both workers together."""
        return LlmStats(
            running=self.running + other.running,
            waiting=self.waiting + other.waiting,
            kv_usage=max(self.kv_usage, other.kv_usage),
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            preemptions=self.preemptions + other.preemptions,
            prefix_queries=self.prefix_queries + other.prefix_queries,
            prefix_hits=self.prefix_hits + other.prefix_hits,
            first_token=self.first_token.plus(other.first_token),
            inter_token=self.inter_token.plus(other.inter_token),
        )

    def of_the_dead(self) -> "LlmStats":
        """What remains of a worker that has ended: what it counted, and nothing that it holds."""
        return msgspec.structs.replace(self, running=0, waiting=0, kv_usage=0.0)
