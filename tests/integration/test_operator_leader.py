"""Leader election against a real API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.controlplane import ControlPlane
from tests.support.gate import Gate
from tests.support.waiting import eventually

from podium_operator.errors import LeaseLost
from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.kinds import Ref
from podium_operator.kube.transport import Limits, Transport
from podium_operator.leader import Elector, LeaseConfig
from podium_operator.metrics import Metrics

pytestmark = pytest.mark.apiserver

Candidate = Callable[[str], Elector]


@pytest.fixture
def candidate(client: KubeClient, namespace: str) -> Candidate:
    def make(identity: str) -> Elector:
        return Elector(client, a_lease(namespace, identity))

    return make


def a_lease(namespace: str, identity: str) -> LeaseConfig:
    return LeaseConfig(namespace, "operator", identity, duration_s=2, renew_s=1.0, retry_s=0.1)


@contextlib.asynccontextmanager
async def holding(elector: Elector) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(elector.hold())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_first_leads_and_the_second_waits(candidate: Candidate) -> None:
    first, second = candidate("first"), candidate("second")
    assert await first.acquire() == 0
    async with holding(first):
        waiting = asyncio.create_task(second.acquire())
        # Longer than the lease lasts: renewals, not its first duration, keep the second out.
        done, _ = await asyncio.wait([waiting], timeout=4.0)
        assert not done
        assert first.leads
        assert not second.leads
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_released_lease_is_taken_at_once_with_a_higher_fencing_number(
    candidate: Candidate, client: KubeClient, namespace: str
) -> None:
    first, second = candidate("first"), candidate("second")
    await first.acquire()
    await first.release()
    assert not first.leads
    assert await second.acquire() == 1
    lease = await client.get(Ref("Lease", namespace, "operator"))
    assert lease["spec"]["holderIdentity"] == "second"
    assert lease["spec"]["leaseTransitions"] == 1


async def test_a_lease_is_released_although_the_answer_of_its_last_renewal_was_lost(
    candidate: Candidate, control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    elector = candidate("first")
    await elector.acquire()
    control_plane.kubectl("annotate", "lease", "operator", "-n", namespace, "renewed=unheard")
    await elector.release()
    lease = await client.get(Ref("Lease", namespace, "operator"))
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_silent_leader_has_stopped_before_another_begins(candidate: Candidate) -> None:
    first, second = candidate("first"), candidate("second")
    await first.acquire()
    # Never renewed, as by a process that is stopped.
    assert await second.acquire() == 1
    assert not first.leads
    with pytest.raises(LeaseLost):
        first.check()
    with pytest.raises(LeaseLost):
        await first.hold()


async def test_a_leader_that_wakes_late_finds_the_lease_taken_and_changes_nothing(
    candidate: Candidate, client: KubeClient, namespace: str
) -> None:
    first, second = candidate("first"), candidate("second")
    await first.acquire()
    await second.acquire()
    async with holding(second):
        await first.release()
        lease = await client.get(Ref("Lease", namespace, "operator"))
        assert lease["spec"]["holderIdentity"] == "second"
        assert second.leads


async def test_taking_ones_own_old_lease_raises_the_fencing_number(candidate: Candidate) -> None:
    await candidate("same").acquire()
    assert await candidate("same").acquire() == 1


async def test_a_change_by_someone_else_does_not_end_leadership(
    candidate: Candidate, control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    elector = candidate("first")
    await elector.acquire()
    async with holding(elector) as task:
        control_plane.kubectl("annotate", "lease", "operator", "-n", namespace, "note=looked")
        seen = await client.get(Ref("Lease", namespace, "operator"))

        async def renewed() -> bool:
            found = await client.get(Ref("Lease", namespace, "operator"))
            return bool(found["spec"]["renewTime"] > seen["spec"]["renewTime"])

        await eventually(renewed)
        assert elector.leads
        assert not task.done()


async def test_a_lease_taken_by_force_ends_leadership(
    candidate: Candidate, control_plane: ControlPlane, namespace: str
) -> None:
    elector = candidate("first")
    await elector.acquire()
    async with holding(elector) as task:
        control_plane.kubectl(
            "patch", "lease", "operator", "-n", namespace, "--type=merge", "-p", '{"spec":{"holderIdentity":"other"}}'
        )
        with pytest.raises(LeaseLost, match="held by other"):
            async with asyncio.timeout(30):
                await task
        assert not elector.leads


async def test_a_deleted_lease_ends_leadership(
    candidate: Candidate, control_plane: ControlPlane, namespace: str
) -> None:
    elector = candidate("first")
    await elector.acquire()
    async with holding(elector) as task:
        control_plane.kubectl("delete", "lease", "operator", "-n", namespace)
        with pytest.raises(LeaseLost, match="nobody"):
            async with asyncio.timeout(30):
                await task


async def test_a_leader_cut_off_gives_up_before_its_lease_ends_for_others(
    candidate: Candidate, control_plane: ControlPlane, metrics: Metrics, namespace: str, tmp_path: Path
) -> None:
    async with Gate(control_plane.url) as gate:
        credentials = await Credentials.load(gate.kubeconfig(control_plane.kubeconfig, tmp_path))
        cut_off = KubeClient(Transport(credentials, metrics, Limits(attempts=1)))
        first = Elector(cut_off, a_lease(namespace, "first"))
        await first.acquire()
        second = asyncio.create_task(candidate("second").acquire())
        async with holding(first) as task:
            await gate.close()
            with pytest.raises(LeaseLost, match="could not be renewed in time"):
                await task
            assert not second.done()
            assert await second == 1
        await cut_off.close()


async def test_a_lease_made_anew_counts_on_from_what_pods_have_taken(client: KubeClient, namespace: str) -> None:
    elector = Elector(client, a_lease(namespace, "reinstalled"), floor=lambda: 20)
    assert await elector.acquire() == 20
    await elector.release()
    successor = Elector(client, a_lease(namespace, "successor"), floor=lambda: 20)
    assert await successor.acquire() == 21
    await successor.release()
