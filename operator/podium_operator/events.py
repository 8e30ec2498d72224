"""Kubernetes Events, for people: posted on transitions only, best effort, never in a reconciler's way.

A repeat within the quiet time is dropped; a later one raises the count of the Event that exists, across restarts too,
because an Event's name is derived from what it says.
"""

import asyncio
import hashlib
import socket
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from podium_crds.keys import FIELD_MANAGER
from podium_operator.errors import OperatorError
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import Conflict
from podium_operator.kube.kinds import Ref
from podium_operator.logs import get_logger

log = get_logger(__name__)

QUIET_S = 600.0
MAX_WAITING = 1000
_MAX_REMEMBERED = 10_000
_MAX_NOTE = 1024
_POST_TIMEOUT_S = 30.0


class EventType(StrEnum):
    """What `kubectl` shows in the TYPE column."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class _Waiting:
    regarding: Manifest
    type: EventType
    reason: str
    note: str

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.regarding["uid"], self.reason, self.note)


class Events:
    """Takes Events at once and posts them in the background, while `run` runs. Bounded: what is too much is dropped."""

    def __init__(self, client: KubeClient, *, instance: str | None = None) -> None:
        """`instance`: which replica reports; the host name where not given. The client is borrowed."""
        self._client = client
        self._instance = (instance or socket.gethostname())[:128]
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(MAX_WAITING)
        self._posted: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        """(uid, reason, note) → when it was last taken."""

    def record(self, regarding: Mapping[str, Any], type_: EventType, reason: str, note: str) -> bool:
        """Have an Event posted about an object (its manifest, with uid). False: a repeat in the quiet time, or full.

        `reason` is CamelCase and of a closed set; `note` is a sentence for people, cut at 1 KiB.
        """
        metadata = regarding["metadata"]
        reference = {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata.get("namespace", "default"),
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
            "resourceVersion": metadata.get("resourceVersion", ""),
        }
        event = _Waiting(reference, type_, reason, note[:_MAX_NOTE])
        now = asyncio.get_running_loop().time()
        last = self._posted.get(event.identity)
        if (last is not None and now - last < QUIET_S) or self._waiting.full():
            return False
        self._posted[event.identity] = now
        self._posted.move_to_end(event.identity)
        if len(self._posted) > _MAX_REMEMBERED:
            self._posted.popitem(last=False)
        self._waiting.put_nowait(event)
        return True

    async def run(self) -> None:
        """Post until cancelled. What cannot be posted is logged and dropped."""
        while True:
            event = await self._waiting.get()
            try:
                async with asyncio.timeout(_POST_TIMEOUT_S):
                    await self._post(event)
            except (OperatorError, TimeoutError) as exc:
                log.warning("event_not_posted", reason=event.reason, cause=str(exc) or type(exc).__name__)
            finally:
                self._waiting.task_done()

    async def flush(self, timeout_s: float) -> None:
        """Wait until all are posted, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiting.join()
        except TimeoutError:
            log.warning("events_left_unposted", count=self._waiting.qsize())

    async def _post(self, event: _Waiting) -> None:
        manifest = self._manifest(event)
        try:
            await self._client.create(manifest)
        except Conflict as exc:
            if not exc.already_exists:
                raise
            await self._count_up(manifest)

    async def _count_up(self, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        wanted = Ref("Event", metadata["namespace"], metadata["name"])
        known = await self._client.get(wanted)
        count = int((known.get("series") or {}).get("count") or 1)
        series = {"count": count + 1, "lastObservedTime": manifest["eventTime"]}
        await self._client.merge_patch(wanted, {"series": series}, resource_version=None)

    def _manifest(self, event: _Waiting) -> Manifest:
        digest = hashlib.sha256("\0".join((*event.identity, FIELD_MANAGER)).encode()).hexdigest()[:16]
        regarding = event.regarding
        return {
            "kind": "Event",
            "metadata": {"name": f"{regarding['name'][:200]}.{digest}", "namespace": regarding["namespace"]},
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": FIELD_MANAGER,
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "reason": event.reason,
            "regarding": regarding,
            "note": event.note,
            "type": str(event.type),
        }
