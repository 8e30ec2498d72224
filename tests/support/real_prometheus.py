"""A real Prometheus server: Debian's, unpacked (make setup-prometheus), or the one on PATH. Its data is forgotten."""

import asyncio
import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import pytest
from e2e.clusters.paths import cache_dir
from tests.support.waiting import eventually

SCRAPES_EVERY = "1s"
ENDS_WITHIN_S = 20.0


def program() -> str:
    """Its path; skips the test where this machine has none."""
    unpacked = cache_dir() / "debian" / "prometheus" / "usr" / "bin" / "prometheus"
    found = str(unpacked) if unpacked.exists() else shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus on this machine (make setup-prometheus)")
    return found


class RealPrometheus:
    """Scrapes `/metrics` of the given addresses (host:port) every second."""

    def __init__(self, folder: Path, targets: Sequence[str] = ()) -> None:
        self._folder = folder
        self._targets = list(targets)
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        jobs = [{"job_name": "pods", "static_configs": [{"targets": self._targets}]}] if self._targets else []
        config = {"global": {"scrape_interval": SCRAPES_EVERY}, "scrape_configs": jobs}
        (self._folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program(),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await eventually(self._is_ready, within_s=60, what="Prometheus is ready")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._end()

    async def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self._folder / "prometheus.log").read_text()[-2000:]
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.address}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _end(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), ENDS_WITHIN_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
