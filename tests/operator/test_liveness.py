import asyncio

from tests.support.virtual_time import in_virtual_time

from podium_operator.liveness import Liveness

KINDS = {"/api/v1/pods": "Pod", "/apis/apps/v1/deployments": "Deployment"}


def connect(liveness: Liveness, path: str) -> None:
    for watch in (False, True):
        liveness.begins(path)
        liveness.answered(path, watch=watch)


@in_virtual_time
async def test_it_is_connected_once_every_watch_is() -> None:
    liveness = Liveness(KINDS)
    connect(liveness, "/api/v1/pods")
    assert not liveness.connected
    connect(liveness, "/apis/apps/v1/deployments")
    assert liveness.connected


@in_virtual_time
async def test_a_listing_alone_is_no_connection() -> None:
    liveness = Liveness({"/api/v1/pods": "Pod"})
    liveness.answered("/api/v1/pods", watch=False)
    assert not liveness.connected


@in_virtual_time
async def test_a_watch_that_goes_on_after_a_listing_is_told_once() -> None:
    liveness = Liveness(KINDS)
    connect(liveness, "/api/v1/pods")
    assert await liveness.relisted() == {"Pod"}
    liveness.answered("/api/v1/pods", watch=True)
    waiting = asyncio.create_task(liveness.relisted())
    await asyncio.sleep(3600)
    assert not waiting.done()
    connect(liveness, "/apis/apps/v1/deployments")
    connect(liveness, "/api/v1/pods")
    assert await waiting == {"Deployment", "Pod"}


@in_virtual_time
async def test_a_watch_that_begins_no_request_falls_silent() -> None:
    liveness = Liveness(KINDS)
    await asyncio.sleep(100)
    liveness.begins("/api/v1/pods")
    await asyncio.sleep(50)
    assert liveness.silent(120.0) == {"Deployment"}
    assert liveness.silent(200.0) == frozenset()


@in_virtual_time
async def test_other_requests_say_nothing_about_the_watches() -> None:
    liveness = Liveness({"/api/v1/pods": "Pod"})
    connect(liveness, "/api/v1/namespaces")
    assert not liveness.connected
