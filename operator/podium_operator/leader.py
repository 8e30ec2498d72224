"""One leader among the operator's replicas, by a Lease.

Leadership is coordination, and its number of transitions fences: pods refuse assignments of an earlier one. A leader
that cannot renew in time says so before anyone else may take over, whatever became of its requests, because it measures
on its own monotonic clock from before each renewal was sent.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from podium_operator.errors import LeaseLost, OperatorError
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import Conflict, NotFound
from podium_operator.kube.kinds import Ref
from podium_operator.logs import get_logger

log = get_logger(__name__)

_CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """Which Lease, for whom, and its timings: retry < renew < duration."""

    namespace: str
    name: str
    identity: str
    duration_s: int = 15
    renew_s: float = 10.0
    retry_s: float = 2.0

    @property
    def ref(self) -> Ref:
        """The Lease."""
        return Ref("Lease", self.namespace, self.name)


@dataclass(slots=True)
class _Seen:
    """Another holder's Lease as last seen, and when by our clock: theirs is not to be trusted."""

    resource_version: str
    at: float


class Elector:
    """Takes, renews and releases the Lease: `await acquire()`, then `await hold()`, at the end `await release()`."""

    def __init__(
        self,
        client: KubeClient,
        config: LeaseConfig,
        *,
        clock: Callable[[], float] | None = None,
        floor: Callable[[], int] | None = None,
    ) -> None:
        """`clock`: monotonic seconds; the running loop's where not given. The client is borrowed.

        `floor`: the least fencing number that pods would take, asked when the Lease is taken. A Lease that was deleted
        (the operator was installed anew) begins to count at 0, and pods hold assignments of its forerunner.
        """
        self._client = client
        self._config = config
        self._floor = floor or (lambda: 0)
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._seen: _Seen | None = None
        self._lease: Manifest | None = None
        """Ours as last written; None while we do not hold it."""
        self._valid_until = 0.0

    @property
    def leads(self) -> bool:
        """Whether this process may act as leader at this very moment."""
        return self._lease is not None and self._clock() < self._valid_until

    @property
    def transitions(self) -> int:
        """The fencing number: how often the Lease has changed hands. Raises LeaseLost where it is not held."""
        self.check()
        assert self._lease is not None
        return int(self._lease["spec"].get("leaseTransitions") or 0)

    def check(self) -> None:
        """Raises LeaseLost where this process may no longer act as leader."""
        if not self.leads:
            raise LeaseLost(f"Lease {self._config.namespace}/{self._config.name} is not held")

    async def acquire(self) -> int:
        """Wait until this process leads; returns the fencing number. API errors are waited out."""
        while True:
            try:
                if await self._try_acquire():
                    log.info("leading", identity=self._config.identity, transitions=self.transitions)
                    return self.transitions
            except (OperatorError, TimeoutError) as exc:
                log.warning("lease_attempt_failed", reason=str(exc) or type(exc).__name__)
            await asyncio.sleep(self._config.retry_s * random.uniform(1.0, 1.2))  # noqa: S311 - spreads the replicas

    async def hold(self) -> None:
        """Renew until cancelled. Raises LeaseLost once the Lease is another's, or could not be renewed in time."""
        while True:
            await asyncio.sleep(max(0.0, min(self._config.retry_s, self._valid_until - self._clock())))
            if not self.leads:
                raise self._lost("could not be renewed in time")
            try:
                async with asyncio.timeout(min(_CALL_TIMEOUT_S, self._valid_until - self._clock())):
                    await self._renew()
            except (Conflict, NotFound):
                await self._check_still_ours()
            except (OperatorError, TimeoutError) as exc:
                log.warning("lease_renewal_failed", reason=str(exc) or type(exc).__name__)

    async def release(self) -> None:
        """Give the Lease up so that another takes over at once. Does nothing where it is not held; never raises."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        with contextlib.suppress(OperatorError, TimeoutError):
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                try:
                    await self._client.replace(_given_up(lease))
                except Conflict:  # a renewal that was cut short had been written
                    found = await self._client.find(self._config.ref)
                    if found is None or not _same_term(found, lease):
                        return
                    await self._client.replace(_given_up(found))
                log.info("lease_released", identity=self._config.identity)

    async def _try_acquire(self) -> bool:
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            sent_at = self._clock()
            found = await self._client.find(self._config.ref)
            try:
                if found is None:
                    written = await self._client.create(self._manifest(self._floor()))
                elif self._free(found):
                    written = await self._take(found)
                else:
                    return False
            except Conflict:
                return False
        self._own(written, sent_at)
        return True

    def _free(self, found: Manifest) -> bool:
        """Whether nobody holds it, we do, or its holder has been silent for its duration by our clock."""
        spec = found.get("spec") or {}
        if spec.get("holderIdentity") in (None, "", self._config.identity):
            return True
        version, now = found["metadata"]["resourceVersion"], self._clock()
        if self._seen is None or self._seen.resource_version != version:
            self._seen = _Seen(version, now)
        return now - self._seen.at >= float(spec.get("leaseDurationSeconds") or self._config.duration_s)

    async def _take(self, found: Manifest) -> Manifest:
        # Also where the name in it is ours: a former process of that name may still be at it.
        transitions = int((found.get("spec") or {}).get("leaseTransitions") or 0) + 1
        wanted = self._manifest(max(transitions, self._floor()))
        wanted["metadata"] = found["metadata"]
        return await self._client.replace(wanted)

    async def _renew(self) -> None:
        assert self._lease is not None
        sent_at = self._clock()
        spec = {**self._lease["spec"], "renewTime": _now()}
        self._own(await self._client.replace({**self._lease, "spec": spec}), sent_at)

    async def _check_still_ours(self) -> None:
        """After a failed precondition: perhaps our own earlier write, whose answer was lost."""
        assert self._lease is not None
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await self._client.find(self._config.ref)
        except (OperatorError, TimeoutError):
            return
        if found is None or not _same_term(found, self._lease):
            holder = ((found or {}).get("spec") or {}).get("holderIdentity")
            raise self._lost(f"is held by {holder or 'nobody'} now")
        self._lease = found

    def _own(self, written: Manifest, sent_at: float) -> None:
        self._lease = written
        self._valid_until = sent_at + self._config.renew_s

    def _lost(self, why: str) -> LeaseLost:
        self._lease = None
        return LeaseLost(f"Lease {self._config.namespace}/{self._config.name} {why}")

    def _manifest(self, transitions: int) -> Manifest:
        now = _now()
        spec: dict[str, Any] = {
            "holderIdentity": self._config.identity,
            "leaseDurationSeconds": self._config.duration_s,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        metadata = {"name": self._config.name, "namespace": self._config.namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _given_up(lease: Manifest) -> Manifest:
    """The same Lease, free to take at once."""
    freed = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
    return {**lease, "spec": {**lease["spec"], **freed}}


def _same_term(found: Manifest, ours: Manifest) -> bool:
    """Whether the Lease found is still the one that we took."""
    spec = found.get("spec") or {}
    return all(spec.get(name) == ours["spec"].get(name) for name in ("holderIdentity", "leaseTransitions"))
