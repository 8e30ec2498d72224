"""Request counts of one revision as plain integers: the hot path adds, a scrape or a report reads."""

from bisect import bisect_left

from podium_crds.assignment import LATENCY_BOUNDS_S, Counts

SERVER_ERROR = 500


class RequestCounts:
    """Answers by route and status, and their durations in seconds. One thread only."""

    __slots__ = ("answers", "buckets", "seconds")

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        self.buckets: dict[str, list[int]] = {}
        """route → answers per latency bucket, not cumulative; the last one is above every bound."""
        self.seconds: dict[str, float] = {}

    def add(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        key = (route, status)
        self.answers[key] = self.answers.get(key, 0) + 1
        buckets = self.buckets.get(route)
        if buckets is None:
            buckets = self.buckets[route] = [0] * (len(LATENCY_BOUNDS_S) + 1)
        buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.seconds[route] = self.seconds.get(route, 0.0) + seconds

    def report(self) -> Counts:
        """As the pod's report gives them: all routes together, buckets cumulative."""
        failed = sum(count for (_, status), count in self.answers.items() if status >= SERVER_ERROR)
        totals = [sum(column) for column in zip(*self.buckets.values(), strict=True)]
        return Counts(
            succeeded=sum(self.answers.values()) - failed, failed=failed, latency_buckets=tuple(accumulated(totals))
        )


def accumulated(values: list[int]) -> list[int]:
    """Running sums."""
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
