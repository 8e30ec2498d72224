"""Sends: an open loop at a fixed rate, and clients with long requests back to back.

The open loop never waits for an answer before the next request is due, so that a stall shows as many slow requests and
not as few. Each client keeps its own connections. Numbers are unique in one run, so that no answer fits two requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from .events import broken
from .http1 import Answer, Client, Request, RequestError
from .ledger import Entry, Summary

NUMBER = "__NUMBER__"
"""Replaced by the request's number in a body template."""
RATE_PER_S = 20.0
"""What a suite beside a cluster of two nodes can send on two processors and leave them most of their time."""
_KEPT_BODY = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """What to send where. `body` and `long_body` are templates that contain NUMBER."""

    host: str
    port: int
    path: str
    body: str
    long_path: str = ""
    long_body: str = ""
    """Empty: no long requests. They may be answered in one piece or as server-sent events."""
    rate_per_s: float = RATE_PER_S
    clients: int = 10
    long_clients: int = 4
    timeout_s: float = 30.0


class Sender:
    """Runs a Load until told to stop, handing each Entry to `keep` as soon as it is known."""

    def __init__(self, load: Load, keep: Callable[[Entry], None]) -> None:
        self._load = load
        self._keep = keep
        self._numbers = itertools.count(1)
        self._sent = 0
        self._stop = asyncio.Event()
        self._clients: list[Client] = []
        # Entries carry wall-clock times that never step: other observations are compared with them.
        self._epoch = time.time() - time.monotonic()

    def stop(self) -> None:
        """Send nothing more; what is in flight is still waited for."""
        self._stop.set()

    async def run(self) -> Summary:
        """Send until stopped, and return once every request has its outcome."""
        async with asyncio.TaskGroup() as tasks:
            for index in range(self._load.clients):
                tasks.create_task(self._open_loop(index, tasks))
            if self._load.long_body:
                for index in range(self._load.long_clients):
                    tasks.create_task(self._back_to_back(index))
        for client in self._clients:
            await client.close()
        return Summary(self._sent, sum(client.connections for client in self._clients))

    async def _open_loop(self, index: int, tasks: asyncio.TaskGroup) -> None:
        client, name = self._client(), f"client-{index}"
        interval = self._load.clients / self._load.rate_per_s
        due = time.monotonic() + interval * index / self._load.clients
        while not await self._stopped_by(due):
            tasks.create_task(self._one(client, name, "request", self._load.path, self._load.body))
            due += interval

    async def _back_to_back(self, index: int) -> None:
        client, name = self._client(), f"long-{index}"
        while not self._stop.is_set():
            path = self._load.long_path or self._load.path
            if not await self._one(client, name, "long", path, self._load.long_body):
                # A refused connection comes back at once: without this a dead server would be a busy loop.
                await self._stopped_by(time.monotonic() + 0.05)

    async def _one(self, client: Client, name: str, kind: str, path: str, template: str) -> bool:
        number = next(self._numbers)
        request = Request(path, template.replace(NUMBER, str(number)).encode())
        self._sent += 1
        sent_at = time.monotonic()
        answer: Answer | None = None
        error: str | None = None
        try:
            answer = await client.send(request)
        except RequestError as exc:
            error = str(exc)
        else:
            error = broken(answer)
        entry = Entry(
            number=number,
            client=name,
            kind=kind,
            sent_at=self._epoch + sent_at,
            done_at=self._epoch + time.monotonic(),
            status=answer.status if answer else None,
            revision=answer.headers.get("podium-revision") if answer else None,
            retry_after=answer.headers.get("retry-after") if answer else None,
            body=answer.body[:_KEPT_BODY].decode("utf-8", "replace") if answer else "",
            error=error,
        )
        self._keep(entry)
        return entry.ok

    async def _stopped_by(self, moment: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _client(self) -> Client:
        client = Client(self._load.host, self._load.port, self._load.timeout_s)
        self._clients.append(client)
        return client
