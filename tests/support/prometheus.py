"""The query endpoint of Prometheus' HTTP API, answering what a test says. The documented form, on a real socket."""

from types import TracebackType
from typing import Any, Self

from aiohttp import web


class FakePrometheus:
    """In the place of a server. `says` is answered next; every query that came is kept."""

    def __init__(self) -> None:
        self.says: Any = vector(0.0)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.queries: list[str] = []
        self.address = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/api/v1/query", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.queries.append(str((await request.post())["query"]))
        if isinstance(self.says, str):
            return web.Response(text=self.says, status=self.status, headers=self.headers)
        return web.json_response(self.says, status=self.status, headers=self.headers)


def vector(*values: float | str) -> dict[str, Any]:
    """A successful answer of so many series."""
    result = [{"metric": {"pod": f"p{at}"}, "value": [1435781451.781, str(each)]} for at, each in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def scalar(value: float | str) -> dict[str, Any]:
    """A successful answer of one number."""
    return {"status": "success", "data": {"resultType": "scalar", "result": [1435781451.781, str(value)]}}


def refused(error: str) -> dict[str, Any]:
    """An answer with an error."""
    return {"status": "error", "errorType": "bad_data", "error": error}
