"""The transport against a real HTTP server that answers what each test scripts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.errors import BadAnswer, Gone, KubeError, TooMany, Unavailable
from podium_operator.kube.kinds import Ref
from podium_operator.kube.transport import Call, Limits, Transport
from podium_operator.metrics import Metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUICK = Limits(connect_s=1.0, total_s=2.0, attempts=4, backoff_s=0.001, max_backoff_s=0.05, concurrency=4)
NODE = Ref("Node", None, "one")


@asynccontextmanager
async def serving(handler: Handler, limits: Limits = QUICK) -> AsyncIterator[Transport]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    credentials = Credentials(Configuration(host=f"http://{host}:{port}"), kubeconfig=None)
    transport = Transport(credentials, Metrics(), limits)
    try:
        yield transport
    finally:
        await transport.close()
        await runner.cleanup()


def answers(*statuses: int, headers: dict[str, str] | None = None) -> tuple[Handler, list[str]]:
    """Each status in turn, the last one for ever; and the methods that were asked."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.method)
        status = statuses[min(len(asked), len(statuses)) - 1]
        body = {"kind": "Node", "metadata": {"name": "one"}, "message": f"answer {len(asked)}"}
        return web.json_response(body, status=status, headers=headers)

    return handler, asked


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_passing_failure_is_tried_again(status: int) -> None:
    handler, asked = answers(status, status, 200)
    async with serving(handler) as transport:
        assert (await transport.send(Call("GET", "/api/v1/nodes/one"))).status == 200
    assert asked == ["GET", "GET", "GET"]


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422, 500])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(status: int) -> None:
    handler, asked = answers(status)
    async with serving(handler) as transport:
        assert (await transport.send(Call("GET", "/api/v1/nodes/one"))).status == status
    assert asked == ["GET"]


async def test_tries_end_and_the_last_answer_stands() -> None:
    handler, asked = answers(503)
    async with serving(handler) as transport:
        with pytest.raises(Unavailable, match="answer 4"):
            await KubeClient(transport).get(NODE)
    assert len(asked) == 4


async def test_a_busy_server_is_too_many_after_the_tries() -> None:
    handler, _ = answers(429)
    async with serving(handler) as transport:
        with pytest.raises(TooMany):
            await KubeClient(transport).get(NODE)


async def test_a_create_is_not_repeated_once_it_may_have_been_done() -> None:
    handler, asked = answers(504, 201)
    async with serving(handler) as transport:
        with pytest.raises(Unavailable):
            await KubeClient(transport).create({"kind": "Node", "metadata": {"name": "one"}})
    assert asked == ["POST"]


async def test_a_create_that_was_turned_away_is_repeated() -> None:
    handler, asked = answers(429, 503, 201)
    async with serving(handler) as transport:
        await KubeClient(transport).create({"kind": "Node", "metadata": {"name": "one"}})
    assert asked == ["POST", "POST", "POST"]


async def test_the_server_says_how_long_to_wait_up_to_our_limit() -> None:
    handler, _ = answers(429, 200, headers={"Retry-After": "3600"})
    async with serving(handler) as transport:
        started = asyncio.get_running_loop().time()
        assert (await transport.send(Call("GET", "/x"))).status == 200
        assert asyncio.get_running_loop().time() - started >= QUICK.max_backoff_s


async def test_a_broken_connection_is_tried_again() -> None:
    asked = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked < 3:
            assert request.transport
            request.transport.close()
        return web.json_response({})

    async with serving(handler) as transport:
        assert (await transport.send(Call("PATCH", "/x", body={}))).status == 200


async def test_a_server_that_hangs_is_unavailable() -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")

    limits = Limits(total_s=0.1, attempts=2, backoff_s=0.001)
    async with serving(handler, limits) as transport:
        with pytest.raises(Unavailable):
            await transport.send(Call("GET", "/x"))


async def test_no_server_at_all_is_unavailable() -> None:
    credentials = Credentials(Configuration(host="http://127.0.0.1:1"), kubeconfig=None)
    transport = Transport(credentials, Metrics(), QUICK)
    with pytest.raises(Unavailable):
        await transport.send(Call("POST", "/x", idempotent=False))
    await transport.close()


async def test_no_more_requests_run_at_once_than_allowed() -> None:
    running, most = 0, 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.json_response({})

    async with serving(handler) as transport:
        await asyncio.gather(*(transport.send(Call("GET", "/x")) for _ in range(20)))
    assert most == QUICK.concurrency


@pytest.mark.parametrize("body", ["[]", "no json", '"text"'])
async def test_an_answer_that_is_no_object_is_bad(body: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with serving(handler) as transport:
        with pytest.raises(BadAnswer):
            await transport.send(Call("GET", "/x"))


async def test_an_answer_without_end_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podium_operator.kube.transport.MAX_ANSWER_BYTES", 100_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" " * 10_000)
        return response

    async with serving(handler) as transport:
        with pytest.raises(BadAnswer, match="larger than 100000 bytes"):
            await transport.send(Call("GET", "/x"))


async def test_an_error_in_plain_text_keeps_its_words() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=500, text="etcd is away\n")

    async with serving(handler) as transport:
        with pytest.raises(Unavailable, match="etcd is away"):
            await KubeClient(transport).get(NODE)


async def test_a_list_whose_continuation_expires_starts_anew() -> None:
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        token = request.query.get("continue")
        asked.append(token)
        if len(asked) == 2:
            return web.json_response({"reason": "Expired", "message": "too old"}, status=410)
        metadata = {"resourceVersion": "7"} if token else {"resourceVersion": "7", "continue": "next"}
        name = "two" if token else "one"
        return web.json_response({"metadata": metadata, "items": [{"metadata": {"name": name}}]})

    async with serving(handler) as transport:
        listing = await KubeClient(transport).snapshot("Node")
    assert [each["metadata"]["name"] for each in listing.items] == ["one", "two"]
    assert listing.resource_version == "7"
    assert asked == [None, "next", None, "next"]


async def test_a_list_that_always_expires_is_gone() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Expired"}, status=410)

    async with serving(handler) as transport:
        with pytest.raises(Gone):
            await KubeClient(transport).list("Node")


async def test_an_error_names_status_reason_and_call() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"reason": "Teapot"}, status=418)

    async with serving(handler) as transport:
        with pytest.raises(KubeError, match="GET /api/v1/nodes/one was answered with HTTP 418") as caught:
            await KubeClient(transport).get(NODE)
    assert (caught.value.status, caught.value.reason) == (418, "Teapot")
