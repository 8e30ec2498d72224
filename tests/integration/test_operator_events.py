"""Events on a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.controlplane import ControlPlane

from podium_operator.events import Events, EventType
from podium_operator.kube.client import KubeClient

pytestmark = pytest.mark.apiserver


def a_regarding(namespace: str) -> dict[str, Any]:
    metadata = {"name": "minilm", "namespace": namespace, "uid": f"uid-in-{namespace}", "resourceVersion": "7"}
    return {"apiVersion": "podium.dev/v1alpha1", "kind": "InferenceModel", "metadata": metadata}


@contextlib.asynccontextmanager
async def posting(client: KubeClient) -> AsyncIterator[Events]:
    events = Events(client)
    task = asyncio.create_task(events.run())
    try:
        yield events
        await events.flush(10)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_event_is_what_kubectl_shows(client: KubeClient, control_plane: ControlPlane, namespace: str) -> None:
    async with posting(client) as events:
        events.record(a_regarding(namespace), EventType.WARNING, "LoadFailed", "the file is gone")
    shown = control_plane.kubectl("get", "events", "-n", namespace, "--no-headers")
    assert shown.split(maxsplit=4)[1:] == ["Warning", "LoadFailed", "inferencemodel/minilm", "the file is gone\n"]


async def test_a_repeat_after_a_restart_raises_the_count(client: KubeClient, namespace: str) -> None:
    for _ in range(3):
        # Each remembers nothing of the others.
        async with posting(client) as events:
            events.record(a_regarding(namespace), EventType.WARNING, "LoadFailed", "the file is gone")
    [event] = await client.list("Event", namespace)
    assert event["series"]["count"] == 3


async def test_events_that_cannot_be_posted_stop_nothing(client: KubeClient, namespace: str) -> None:
    async with posting(client) as events:
        events.record(a_regarding("no-such-namespace"), EventType.NORMAL, "RolloutComplete", "done")
        events.record(a_regarding(namespace), EventType.NORMAL, "RolloutComplete", "done")
    assert [event["reason"] for event in await client.list("Event", namespace)] == ["RolloutComplete"]
