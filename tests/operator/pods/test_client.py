"""The pod client against a real HTTP server in the place of a pod."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from podium_crds.assignment import Assignment, Generation, Report, ResourceKind, ResourceRef
from podium_crds.keys import ADMIN_ASSIGNMENT_PATH, ADMIN_REPORT_PATH
from podium_crds.token import admin_token
from podium_operator.metrics import Metrics
from podium_operator.pods.client import AdminKeys, PodClient
from podium_operator.pods.errors import Refused, Unreachable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OLD, NEW = b"an old key of many bytes", b"a new key of many bytes"
ASSIGNMENT = Assignment(
    generation=Generation(transitions=2, sequence=7),
    resource=ResourceRef(kind=ResourceKind.MODEL, namespace="default", name="minilm"),
)


@asynccontextmanager
async def a_pod(handler: Handler) -> AsyncIterator[PodClient]:
    app = web.Application()
    app.router.add_put(ADMIN_ASSIGNMENT_PATH, handler)
    app.router.add_get(ADMIN_REPORT_PATH, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with PodClient(Metrics(), port=runner.addresses[0][1], timeout_s=1.0) as client:
            yield client
    finally:
        await runner.cleanup()


def guarded(key: bytes, uid: str, answer: Handler) -> tuple[Handler, list[str]]:
    """As a pod that holds this key alone; and the tokens that were shown."""
    shown: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        shown.append(request.headers["Authorization"])
        if shown[-1] != f"Bearer {admin_token(key, uid)}":
            return web.json_response({"error": "wrong token"}, status=401)
        return await answer(request)

    return handler, shown


async def reporting(_: web.Request) -> web.Response:
    return web.json_response(Report(runtime_version="1", pod_uid="uid-1").wire())


async def test_an_assignment_names_the_pod_it_is_for() -> None:
    seen: list[Assignment] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(Assignment.model_validate_json(await request.read()))
        return web.Response(status=204)

    handler, _ = guarded(NEW, "uid-1", take)
    async with a_pod(handler) as client:
        await client.put_assignment("127.0.0.1", "uid-1", ASSIGNMENT, AdminKeys(NEW))
    assert seen == [ASSIGNMENT.model_copy(update={"pod_uid": "uid-1"})]


async def test_a_report_is_read() -> None:
    handler, _ = guarded(NEW, "uid-1", reporting)
    async with a_pod(handler) as client:
        report = await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))
    assert report == Report(runtime_version="1", pod_uid="uid-1")


async def test_a_report_of_a_newer_runtime_is_read_too() -> None:
    async def newer(_: web.Request) -> web.Response:
        return web.json_response({"runtimeVersion": "9", "podUid": "uid-1", "madeUpLater": {"a": 1}})

    async with a_pod(newer) as client:
        assert (await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))).runtime_version == "9"


async def test_a_pod_that_still_holds_the_previous_key_is_reached() -> None:
    handler, shown = guarded(OLD, "uid-1", reporting)
    async with a_pod(handler) as client:
        await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW, OLD))
    assert shown == [f"Bearer {admin_token(key, 'uid-1')}" for key in (NEW, OLD)]


async def test_a_pod_that_takes_neither_key_refuses() -> None:
    handler, _ = guarded(b"another key of many bytes", "uid-1", reporting)
    async with a_pod(handler) as client:
        with pytest.raises(Refused, match="wrong token") as caught:
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW, OLD))
    assert caught.value.status == 401


async def test_a_refusal_carries_the_pods_words() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "generation 2.7 is lower than 2.8"}, status=409)

    async with a_pod(refuse) as client:
        with pytest.raises(Refused) as caught:
            await client.put_assignment("127.0.0.1", "uid-1", ASSIGNMENT, AdminKeys(NEW))
    assert (caught.value.status, caught.value.message) == (409, "generation 2.7 is lower than 2.8")


async def test_an_answer_of_another_pod_at_the_same_address_is_refused() -> None:
    handler, _ = guarded(NEW, "uid-2", reporting)
    async with a_pod(handler) as client:
        with pytest.raises(Refused, match="pod uid-1 answers at"):
            await client.get_report("127.0.0.1", "uid-2", AdminKeys(NEW))


async def test_nobody_there_is_unreachable() -> None:
    async with PodClient(Metrics(), port=1, timeout_s=1.0) as client:
        with pytest.raises(Unreachable):
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))


async def test_a_pod_that_hangs_is_unreachable() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")

    async with a_pod(hang) as client:
        with pytest.raises(Unreachable):
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))


@pytest.mark.parametrize("body", ["", "no json", "[]", '{"podUid": 3}'])
async def test_a_report_that_is_none_is_refused(body: str) -> None:
    async def garbage(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with a_pod(garbage) as client:
        with pytest.raises(Refused, match="not readable"):
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))


async def test_a_report_without_end_is_refused() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2000):
            await response.write(b"x" * 10_000)
        return response

    async with a_pod(flood) as client:
        with pytest.raises(Refused, match="larger than"):
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))


async def test_a_redirect_is_not_followed() -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})

    async with a_pod(away) as client:
        with pytest.raises(Refused) as caught:
            await client.get_report("127.0.0.1", "uid-1", AdminKeys(NEW))
    assert caught.value.status == 307
