"""Watches, cache and queue against a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.conftest import install_crds
from tests.support.controlplane import ControlPlane
from tests.support.gate import Gate
from tests.support.manifests import a_model, a_pipeline
from tests.support.waiting import eventually

from podium_crds.keys import LABEL_MANAGED_BY, LABEL_MODEL, MANAGED_BY
from podium_operator.cache import Cache
from podium_operator.errors import NotPrimed
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.config import Credentials
from podium_operator.kube.kinds import KINDS, Ref
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics
from podium_operator.resync import Resync
from podium_operator.watched import WATCHED, Watched
from podium_operator.watches import Watches
from podium_operator.workqueue import Key, WorkQueue

pytestmark = pytest.mark.apiserver


def a_child(namespace: str, name: str = "minilm-child", model: str = "minilm", **data: str) -> Manifest:
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_MODEL: model}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@dataclass(frozen=True)
class Watching:
    """What the watches feed."""

    cache: Cache
    queue: WorkQueue
    resync: Resync
    watched: Sequence[Watched]
    watches: Watches

    async def next(self) -> Key:
        """The next key, done with at once."""
        async with asyncio.timeout(30):
            key = await self.queue.get()
        assert key is not None
        self.queue.done(key)
        return key

    async def quiet(self, seconds: float = 1.0) -> None:
        """Nothing comes for a while."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                assert await self.queue.get() is None


@contextlib.asynccontextmanager
async def watching(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespaces: Sequence[str]
) -> AsyncIterator[Watching]:
    cache, queue = Cache(metrics), WorkQueue(metrics)
    resync = Resync(client, cache, queue, metrics, namespaces)
    watched = await resync.prime(WATCHED, timeout_s=30)
    watches = Watches(credentials, cache, queue, metrics)
    async with watches.running(watched, namespaces):
        await eventually(lambda: watches.liveness.connected, what="all watches connected")
        following = asyncio.create_task(resync.follow(watches.liveness, watched))
        try:
            yield Watching(cache, queue, resync, watched, watches)
        finally:
            following.cancel()
            await asyncio.wait([following])


async def test_a_resource_that_appears_is_cached_and_its_key_enqueued(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    async with watching(client, credentials, metrics, [namespace]) as seen:
        created = await client.apply(a_model(namespace))
        key = Key("InferenceModel", namespace, "minilm")
        assert await seen.next() == key
        found = seen.cache.parent(key)
        assert found
        assert found["spec"] == created["spec"]
        assert found["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]
        await seen.quiet()


async def test_what_existed_before_is_cached_when_primed_and_wakes_nobody(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    await client.apply(a_model(namespace))
    await client.apply(a_child(namespace))
    async with watching(client, credentials, metrics, [namespace]) as seen:
        key = Key("InferenceModel", namespace, "minilm")
        assert seen.cache.primed
        assert seen.cache.resources() == [key]
        assert [each["metadata"]["name"] for each in seen.cache.children("ConfigMap", key)] == ["minilm-child"]
        await seen.quiet()


@pytest.mark.parametrize("everywhere", [False, True], ids=["one namespace", "all namespaces"])
async def test_each_change_of_a_child_enqueues_its_owner(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str, *, everywhere: bool
) -> None:
    owner = Key("InferenceModel", namespace, "minilm")
    async with watching(client, credentials, metrics, [] if everywhere else [namespace]) as seen:
        await client.apply(a_child(namespace, one="1"))
        assert await seen.next() == owner
        await client.apply(a_child(namespace, one="2"))
        assert await seen.next() == owner
        assert seen.cache.children("ConfigMap", owner)[0]["data"] == {"one": "2"}
        await client.delete(Ref("ConfigMap", namespace, "minilm-child"))
        assert await seen.next() == owner
        assert seen.cache.children("ConfigMap", owner) == []


async def test_objects_without_our_label_are_neither_cached_nor_heard(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    async with watching(client, credentials, metrics, [namespace]) as seen:
        foreign = a_child(namespace)
        del foreign["metadata"]["labels"][LABEL_MANAGED_BY]
        await client.apply(foreign)
        await seen.quiet()
        assert seen.cache.get(Ref("ConfigMap", namespace, "minilm-child")) is None


async def test_a_child_that_loses_our_label_counts_as_gone(
    client: KubeClient, credentials: Credentials, metrics: Metrics, control_plane: ControlPlane, namespace: str
) -> None:
    await client.apply(a_child(namespace))
    async with watching(client, credentials, metrics, [namespace]) as seen:
        control_plane.kubectl("label", "configmap", "minilm-child", "-n", namespace, f"{LABEL_MANAGED_BY}-")
        owner = Key("InferenceModel", namespace, "minilm")
        assert await seen.next() == owner
        assert seen.cache.children("ConfigMap", owner) == []


async def test_nothing_is_written_to_what_is_watched(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    async with watching(client, credentials, metrics, [namespace]) as seen:
        created = await client.apply(a_model(namespace))
        await seen.next()
        await seen.quiet()
        found = await client.get(Ref("InferenceModel", namespace, "minilm"))
        assert found["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]
        assert "finalizers" not in found["metadata"]
        assert "annotations" not in found["metadata"]
        events = await client.list("Event", namespace)
        assert events == []


async def test_a_resync_notices_a_deletion_that_no_watch_told(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    await client.apply(a_model(namespace))
    await client.apply(a_child(namespace))
    cache, queue = Cache(metrics), WorkQueue(metrics)
    resync = Resync(client, cache, queue, metrics, [namespace])
    watched = await resync.prime(WATCHED, timeout_s=30)
    await client.delete(Ref("ConfigMap", namespace, "minilm-child"))
    owner = Key("InferenceModel", namespace, "minilm")
    assert cache.children("ConfigMap", owner) != []
    await resync.heal(watched)
    assert cache.children("ConfigMap", owner) == []
    assert await queue.get() == owner
    text = metrics.exposition().decode()
    assert 'podium_operator_watch_missed_total{kind="ConfigMap",type="DELETED"} 1.0' in text


async def test_a_resync_of_an_unchanged_cluster_finds_nothing(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    await client.apply(a_model(namespace))
    cache, queue = Cache(metrics), WorkQueue(metrics)
    resync = Resync(client, cache, queue, metrics, [namespace])
    watched = await resync.prime(WATCHED, timeout_s=30)
    await resync.heal(watched)
    assert len(queue) == 0


async def test_priming_gives_up_with_the_reason_where_nothing_may_be_listed(
    control_plane: ControlPlane, metrics: Metrics, namespace: str
) -> None:
    stranger = await Credentials.load(control_plane.user_kubeconfig("stranger"))
    client = KubeClient(Transport(stranger, metrics))
    resync = Resync(client, Cache(metrics), WorkQueue(metrics), metrics, [namespace])
    with pytest.raises(NotPrimed, match='User "stranger" cannot list'):
        await resync.prime([Watched(KINDS["Pod"])], timeout_s=1.0)
    await client.close()


async def test_nodes_are_gone_without_where_they_may_not_be_listed(
    control_plane: ControlPlane, metrics: Metrics, namespace: str
) -> None:
    stranger = await Credentials.load(control_plane.user_kubeconfig("stranger"))
    client = KubeClient(Transport(stranger, metrics))
    resync = Resync(client, Cache(metrics), WorkQueue(metrics), metrics, [namespace])
    assert await resync.prime([Watched(KINDS["Node"], optional=True)], timeout_s=10) == ()
    await client.close()


async def test_watches_survive_an_api_server_that_is_away_and_catch_up(
    client: KubeClient, control_plane: ControlPlane, metrics: Metrics, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        through = await Credentials.load(gate.kubeconfig(control_plane.kubeconfig, tmp_path))
        own = KubeClient(Transport(through, metrics))
        async with watching(own, through, metrics, [namespace]) as seen:
            await client.apply(a_child(namespace, one="1"))
            await seen.next()
            await gate.close()
            await client.apply(a_child(namespace, one="2"))
            await seen.quiet(3.0)
            assert seen.watches.alive
            await gate.open()
            owner = Key("InferenceModel", namespace, "minilm")
            assert await seen.next() == owner
            assert seen.cache.children("ConfigMap", owner)[0]["data"] == {"one": "2"}
        await own.close()


async def test_a_change_of_a_model_wakes_the_pipelines_that_refer_to_it(
    client: KubeClient, credentials: Credentials, metrics: Metrics, namespace: str
) -> None:
    await client.apply(a_pipeline(namespace, "answers", model="minilm"))
    await client.apply(a_pipeline(namespace, "other", model="unrelated"))
    async with watching(client, credentials, metrics, [namespace]) as seen:
        await client.apply(a_model(namespace, "minilm"))
        woken = {await seen.next(), await seen.next()}
        assert woken == {
            Key("InferenceModel", namespace, "minilm"),
            Key("InferencePipeline", namespace, "answers"),
        }
        await seen.quiet()


async def test_a_deletion_that_a_watch_slept_through_is_noticed_when_it_lists_anew(tmp_path: Path) -> None:
    # Without its cache, and compacting every second, the server soon refuses to go on from an old version (410), and a
    # watch that lists anew says nothing of what is gone.
    flags = ("--watch-cache=false", "--etcd-compaction-interval=1s")
    with ControlPlane(extra_flags=flags) as plane:
        install_crds(plane)
        metrics = Metrics()
        client = KubeClient(Transport(await Credentials.load(plane.kubeconfig), metrics))
        async with Gate(plane.url) as gate:
            through = await Credentials.load(gate.kubeconfig(plane.kubeconfig, tmp_path))
            own = KubeClient(Transport(through, metrics))
            await client.apply(a_child("default"))
            async with watching(own, through, metrics, ["default"]) as seen:
                owner = Key("InferenceModel", "default", "minilm")
                assert len(seen.cache.children("ConfigMap", owner)) == 1
                since = (await client.snapshot("ConfigMap", "default")).resource_version
                await gate.close()
                await client.delete(Ref("ConfigMap", "default", "minilm-child"))

                async def compacted() -> bool:
                    # Compaction goes up to what was current one interval ago.
                    await client.apply(
                        a_child("default", "another", model="another", at=str(asyncio.get_running_loop().time()))
                    )
                    path = f"/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1&resourceVersion={since}"
                    return '"code":410' in await asyncio.to_thread(plane.kubectl, "get", "--raw", path)

                await eventually(compacted, what="the server has forgotten the deletion")
                await gate.open()
                woken = set()
                while owner not in woken:
                    woken.add(await seen.next())
                assert seen.cache.children("ConfigMap", owner) == []
            await own.close()
        await client.close()
    text = metrics.exposition().decode()
    assert 'podium_operator_watch_missed_total{kind="ConfigMap",type="DELETED"} 1.0' in text
