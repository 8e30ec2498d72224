"""The operator's series, named as controller-runtime's. A leaf: holds numbers, serves none."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PREFIX = "podium_operator"


class Metrics:
    """All series of one operator process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("controller", "result")
        self._reconciles = self._counter("reconcile_total", "Reconcile passes by result.", labels)
        self._reconcile_s = self._histogram("reconcile_seconds", "Time of a reconcile pass.", ("controller",))
        self._active = self._gauge("active_workers", "Reconcile passes running now.", ("controller",))
        self._depth = self._gauge("workqueue_depth", "Keys waiting for a worker.")
        self._adds = self._counter("workqueue_adds_total", "Keys that came into the queue.")
        self._retries = self._counter("workqueue_retries_total", "Keys that came back after a failure.")
        self._wait_s = self._histogram("workqueue_queue_duration_seconds", "Time a key waited for a worker.")
        self._leader = self._gauge("leader", "1 while this process leads.")
        self._requests = self._counter("api_requests_total", "Answers of the API server.", ("verb", "code"))
        self._pod_requests = self._counter("pod_requests_total", "Calls to pods' admin ports.", ("verb", "result"))
        self._events = self._counter("watch_events_total", "Watch events by kind and type.", ("kind", "type"))
        self._healed = self._counter("watch_missed_total", "Changes that only a resync noticed.", ("kind", "type"))
        self._cached = self._gauge("cached_objects", "Objects in the caches.", ("kind",))
        self._lag_s = self._gauge("event_loop_lag_seconds", "How late the event loop ran its last tick.")

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def reconcile_started(self, controller: str) -> None:
        """A pass begins."""
        self._active.labels(controller).inc()

    def reconcile_ended(self, controller: str, result: str, seconds: float) -> None:
        """A pass ended: `success`, `requeue_after`, `error` or `timeout`."""
        self._active.labels(controller).dec()
        self._reconciles.labels(controller, result).inc()
        self._reconcile_s.labels(controller).observe(seconds)

    def queue_depth(self, depth: int) -> None:
        """Keys waiting to be worked on now."""
        self._depth.set(depth)

    def queue_add(self) -> None:
        """A key came in that was not waiting."""
        self._adds.inc()

    def queue_retry(self) -> None:
        """A key comes back after a failure."""
        self._retries.inc()

    def queue_wait(self, seconds: float) -> None:
        """How long a key waited for a worker."""
        self._wait_s.observe(seconds)

    def leading(self, leads: bool) -> None:
        """Whether this process leads."""
        self._leader.set(1 if leads else 0)

    def api_request(self, verb: str, code: str) -> None:
        """The API server answered, or did not (`error`)."""
        self._requests.labels(verb, code).inc()

    def pod_request(self, verb: str, result: str) -> None:
        """A pod's admin port answered (`ok`, `refused`) or did not (`unreachable`)."""
        self._pod_requests.labels(verb, result).inc()

    def watch_event(self, kind: str, event: str) -> None:
        """A watch delivered an event."""
        self._events.labels(kind, event).inc()

    def healed(self, kind: str, event: str) -> None:
        """A resync noticed what no watch had told."""
        self._healed.labels(kind, event).inc()

    def cached(self, kind: str, objects: int) -> None:
        """How many objects of a kind are cached."""
        self._cached.labels(kind).set(objects)

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop ran its last tick."""
        self._lag_s.set(seconds)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", text, labels, registry=self.registry, buckets=_SECONDS)
