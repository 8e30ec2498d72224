from typing import Any

import pytest
from tests.support.virtual_time import in_virtual_time

from podium_operator.events import MAX_WAITING, QUIET_S, Events, EventType

MODEL: dict[str, Any] = {
    "apiVersion": "podium.dev/v1alpha1",
    "kind": "InferenceModel",
    "metadata": {"name": "minilm", "namespace": "default", "uid": "u1", "resourceVersion": "7"},
}


def an_events() -> Events:
    # Nothing is posted here, so that no client is needed; posting is tested on a real API server.
    return Events(None, instance="test")  # type: ignore[arg-type]


@in_virtual_time
async def test_a_repeat_is_dropped_until_the_quiet_time_is_over() -> None:
    import asyncio

    events = an_events()
    assert events.record(MODEL, EventType.NORMAL, "RolloutComplete", "done")
    assert not events.record(MODEL, EventType.NORMAL, "RolloutComplete", "done")
    await asyncio.sleep(QUIET_S)
    assert events.record(MODEL, EventType.NORMAL, "RolloutComplete", "done")


@pytest.mark.parametrize("change", ["uid", "reason", "note"])
@in_virtual_time
async def test_another_object_reason_or_note_is_no_repeat(change: str) -> None:
    events = an_events()
    events.record(MODEL, EventType.NORMAL, "RolloutComplete", "done")
    other = {**MODEL, "metadata": {**MODEL["metadata"], "uid": "u2"}} if change == "uid" else MODEL
    reason = "LoadFailed" if change == "reason" else "RolloutComplete"
    assert events.record(other, EventType.NORMAL, reason, "else" if change == "note" else "done")


@in_virtual_time
async def test_what_is_too_much_is_dropped() -> None:
    events = an_events()
    taken = [
        events.record(MODEL, EventType.NORMAL, "RolloutComplete", str(number)) for number in range(MAX_WAITING + 5)
    ]
    assert taken == [True] * MAX_WAITING + [False] * 5
