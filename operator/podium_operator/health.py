"""The operator's own /healthz, /readyz and /metrics, on the loop that does the work: one that hangs answers nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from aiohttp import web

from podium_operator.logs import get_logger
from podium_operator.metrics import Metrics

log = get_logger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Checks = Mapping[str, Callable[[], bool]]
"""Name of a check → whether it passes now."""

_TICK_S = 0.5


@contextlib.asynccontextmanager
async def serving(host: str, port: int, *, live: Checks, ready: Checks, metrics: Metrics) -> AsyncIterator[int]:
    """Serve within the block; yields the port. Each probe answers 200 or 503 with a line per check."""
    app = web.Application(client_max_size=1024)
    app.router.add_get("/healthz", _probe(live))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/metrics", _metrics(metrics))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    heartbeat = asyncio.create_task(_heartbeat(metrics), name="heartbeat")
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        await site.start()
        bound = int(runner.addresses[0][1])
        log.info("health_listening", host=host, port=bound)
        yield bound
    finally:
        heartbeat.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await heartbeat
        await runner.cleanup()


def _probe(checks: Checks) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        results = {name: check() for name, check in checks.items()}
        lines = [f"[{'+' if passed else '-'}]{name} {'ok' if passed else 'failed'}" for name, passed in results.items()]
        return web.Response(status=200 if all(results.values()) else 503, text="\n".join([*lines, ""]))

    return answer


def _metrics(metrics: Metrics) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    return answer


async def _heartbeat(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        metrics.loop_lag(max(0.0, loop.time() - due))
