"""The operator as a process of its own, as it runs in a cluster: settings by environment, logs as JSON lines."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from tests.support.waiting import eventually

_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
_HARMLESS = ("GET", "LIST", "DRY_RUN", "LEASE")
"""Verbs that change nothing, and the renewals of the Lease."""


class OperatorProcess:
    """Started and ended by the `async with` block; whatever it logged is shown when a wait for it fails."""

    def __init__(self, kubeconfig: Path, namespace: str, **settings: object) -> None:
        """`settings` as in `podium_operator.settings`, on top of quick timings for tests."""
        values: Mapping[str, object] = {
            "kubeconfig": kubeconfig,
            "namespaces": namespace,
            "lease_namespace": namespace,
            "lease_duration_seconds": 3,
            "lease_renew_seconds": 2,
            "lease_retry_seconds": 0.2,
            "health_host": "127.0.0.1",
            "health_port": 0,
            "shutdown_grace_seconds": 5,
            **settings,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")}
        self._environment = {**kept, **{f"PODIUM_OPERATOR_{name.upper()}": str(text) for name, text in values.items()}}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.logs: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "podium_operator", env=self._environment, stderr=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        await self.exit_code()

    @property
    def running(self) -> bool:
        """Whether it has not exited."""
        return self._process is not None and self._process.returncode is None

    @property
    def port(self) -> int | None:
        """Port of its health server, once it has one."""
        return next((int(each["port"]) for each in self.logs if each["event"] == "health_listening"), None)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def exit_code(self, within_s: float = 30.0) -> int:
        """Wait for its end."""
        assert self._process is not None
        assert self._reader is not None
        async with asyncio.timeout(within_s):
            code = await self._process.wait()
            await self._reader
        return code

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What it logged of an event."""
        return [each for each in self.logs if each["event"] == event]

    async def until_logged(self, event: str, *, count: int = 1, within_s: float = 30.0) -> dict[str, Any]:
        """Wait until it has logged an event so often; the last of them."""

        def found() -> dict[str, Any] | None:
            assert self.running or len(self.logged(event)) >= count, f"exited; logs: {self.logs[-20:]}"
            return self.logged(event)[-1] if len(self.logged(event)) >= count else None

        try:
            return await eventually(found, within_s=within_s, what=f"operator logs {event}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; logs: {self.logs[-20:]}") from exc

    async def leading(self) -> Self:
        """Wait until it leads."""
        await self.until_logged("leading")
        return self

    async def http(self, path: str) -> tuple[int, str]:
        """GET from its health server."""
        port = await eventually(lambda: self.port, what="health port")
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def samples(self, name: str) -> dict[str, float]:
        """A metric's samples by their labels as text, such as `code="200",verb="GET"`."""
        _, text = await self.http("/metrics")
        matches = [found for line in text.splitlines() if (found := _SAMPLE.match(line)) and found["name"] == name]
        return {found["labels"] or "": float(found["value"]) for found in matches}

    async def writes(self) -> float:
        """Requests that may have changed something, those that renew its Lease left out."""
        requests = await self.samples("podium_operator_api_requests_total")
        harmless = tuple(f'verb="{verb}"' for verb in _HARMLESS)
        return sum(count for labels, count in requests.items() if not labels.endswith(harmless))

    async def passes(self) -> float:
        """Reconcile passes that have ended, whatever came of them."""
        return sum((await self.samples("podium_operator_reconcile_total")).values())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            try:
                self.logs.append(json.loads(line))
            except json.JSONDecodeError:
                self.logs.append({"event": "no_json", "text": line.decode(errors="replace")})
