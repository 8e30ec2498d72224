"""The order and the times of a drain, in virtual time."""

import asyncio

from tests.support.virtual_time import in_virtual_time, now

from podium.serving.revisions.drain import QUIET_S, SETTLE_S, DrainState, drain
from podium_crds.assignment import DrainPolicy

POLICY = DrainPolicy(propagation_seconds=10, drain_timeout_seconds=60)


def begin(state: DrainState) -> "asyncio.Task[bool]":
    return asyncio.create_task(drain(state, POLICY, asyncio.get_running_loop().time))


@in_virtual_time
async def test_nothing_changes_until_propagation_is_over() -> None:
    state = DrainState()
    task = begin(state)
    await asyncio.sleep(9.9)
    assert (state.has_begun, state.is_closing) == (True, False)
    await asyncio.sleep(0.2)
    assert state.is_closing
    assert await task
    assert 10 + QUIET_S <= now() < 11.2


@in_virtual_time
async def test_it_waits_for_what_is_in_flight() -> None:
    state = DrainState()
    state.enter(0.0)
    task = begin(state)
    await asyncio.sleep(40)
    assert not task.done()
    state.leave()
    assert await task
    assert now() < 40.2


@in_virtual_time
async def test_it_gives_up_at_the_limit_and_says_so() -> None:
    state = DrainState()
    state.enter(0.0)
    assert not await begin(state)
    assert 70 <= now() < 70.2


@in_virtual_time
async def test_a_client_that_never_pauses_does_not_hold_it_up_for_ever() -> None:
    state = DrainState()
    task = begin(state)
    while not task.done():
        state.enter(now())
        await asyncio.sleep(0.03)
        state.leave()
        await asyncio.sleep(0.03)
    assert await task
    assert 10 + SETTLE_S <= now() < 10 + SETTLE_S + 2


@in_virtual_time
async def test_a_client_of_connections_that_live_longer_is_waited_for_as_long() -> None:
    state = DrainState()
    task = asyncio.create_task(drain(state, POLICY, asyncio.get_running_loop().time, 33))
    while now() < 10 + 25:
        state.enter(now())
        await asyncio.sleep(0.03)
        state.leave()
        await asyncio.sleep(0.03)
    assert not task.done()
    assert await task
    assert 35 <= now() < 35 + QUIET_S + 0.2
