"""The control plane over a real socket: who is connected, who is not, and what is lost when."""

import asyncio
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from podium.errors import ProtocolError
from podium.ipc.channel import MESSAGES_PER_WAKE_UP, Broker, NoCredit, PeerGone, WorkerChannel
from podium.ipc.packets import MAX_MESSAGE_BYTES, MAX_PACKET_BYTES, packets
from podium.ipc.protocol import Failure, FromWorker, Grant, Hello, Stop

PEER = b"model-0:1:1"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker.open(tmp_path / "run")
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: Broker) -> object:
    parent = os.pidfd_open(os.getpid())
    channel = WorkerChannel.connect(broker.endpoint, PEER, parent)
    yield channel
    channel.close()
    os.close(parent)


def send_many(worker: WorkerChannel) -> None:
    for number in range(500):
        worker.send(Failure(1, number, "m"), [b"p"])


def send_until_refused(broker: Broker, payload: bytes) -> int:
    """How many messages the pipe takes, bounded by the number that would mean there is no bound."""
    for number in range(10_000):
        try:
            broker.send(PEER, Grant(1, number), [payload])
        except NoCredit:
            return number
    raise AssertionError("ten thousand messages were taken for a peer that reads none")


class Inbox:
    """Keeps what a broker delivers."""

    def __init__(self, broker: Broker) -> None:
        self.messages: list[FromWorker] = []
        self.payloads: list[bytes] = []
        self.refused: list[ProtocolError] = []
        broker.register(PEER, self._take, lambda _, error: self.refused.append(error))

    def has(self, count: int) -> bool:
        return len(self.messages) == count

    def _take(self, _peer: bytes, message: FromWorker, payloads: object) -> None:
        self.messages.append(message)
        self.payloads += payloads  # type: ignore[arg-type]


async def test_the_socket_has_no_name_that_could_be_left_behind(tmp_path: Path) -> None:
    broker = Broker.open(tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert not list((tmp_path / "run").iterdir())
    number = int(broker.endpoint.rpartition("/")[2])
    assert stat.S_ISSOCK(os.fstat(number).st_mode)
    broker.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_a_message_to_nobody_is_refused_not_swallowed(broker: Broker) -> None:
    with pytest.raises(PeerGone):
        broker.send(b"nobody:1", Stop(1))


async def test_a_burst_beyond_one_wake_up_is_delivered_in_order(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    thread = threading.Thread(target=send_many, args=(worker,))
    thread.start()
    await eventually(lambda: len(inbox.messages) == 500, within_s=10)
    thread.join(5)
    assert [message.batch for message in inbox.messages if isinstance(message, Failure)] == list(range(500))
    assert inbox.payloads == [b"p"] * 500


async def test_both_directions_at_once_lose_nothing(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)

    def echo() -> None:
        for i in range(300):
            assert worker.receive(5) is not None
            worker.send(Failure(1, i, "m"))

    thread = threading.Thread(target=echo)
    thread.start()
    for i in range(300):
        broker.send(PEER, Stop(1))
        if i % 16 == 15:
            await eventually(partial(inbox.has, i + 2), within_s=10)
    await eventually(lambda: len(inbox.messages) == 301, within_s=10)
    thread.join(5)


async def test_strangers_are_not_heard(broker: Broker, worker: WorkerChannel) -> None:
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: broker.dropped == 1)


async def test_a_message_that_cannot_be_read_is_told_to_the_owner(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker._socket.send(b"".join(packets(b"\xc1 nonsense", ())))
    await eventually(lambda: inbox.refused)
    assert not inbox.messages


async def test_a_path_too_long_for_a_socket_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        Broker.open(tmp_path / ("x" * 120))


async def test_a_stopped_peer_gets_everything_that_was_accepted_and_the_rest_is_refused(broker: Broker) -> None:
    inbox = Inbox(broker)
    arguments = ("-m", "tests.runtime.ipc.stopped_peer", broker.endpoint, PEER.decode(), str(os.getpid()))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        await eventually(lambda: inbox.messages, what="hello")
        process.send_signal(signal.SIGSTOP)
        payload = bytes(64 << 10)
        accepted = send_until_refused(broker, payload)
        assert accepted > 0
        with pytest.raises(NoCredit):
            broker.send(PEER, Grant(1, accepted), [payload])
        process.send_signal(signal.SIGCONT)
        await eventually(partial(inbox.has, 1 + accepted), what=f"{accepted} answers")
        assert [message.batch for message in inbox.messages if isinstance(message, Failure)] == list(range(accepted))
        assert inbox.payloads == [payload] * accepted
        broker.send(PEER, Stop(1))
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_flood_is_taken_in_turns_with_the_rest_of_the_loop(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)
    thread = threading.Thread(target=send_many, args=(worker,))
    thread.start()
    seen = [1]
    async with asyncio.timeout(30):
        while len(inbox.messages) < 501:
            await asyncio.sleep(0)
            seen.append(len(inbox.messages))
    thread.join(5)
    # A turn of the loop may see the descriptor and the recheck of the turn before: two wake-ups at most.
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * MESSAGES_PER_WAKE_UP


LARGE = 3 * MAX_PACKET_BYTES + 17


async def test_a_message_larger_than_a_packet_arrives_whole_in_both_directions(
    broker: Broker, worker: WorkerChannel
) -> None:
    inbox = Inbox(broker)
    sent = [os.urandom(LARGE), b"", os.urandom(5)]
    worker.send(Failure(1, 1, "m"), sent)
    await eventually(lambda: inbox.messages)
    assert inbox.payloads == sent
    broker.send(PEER, Grant(1, 2), sent)
    received = await asyncio.to_thread(worker.receive, 10)
    assert received is not None
    assert list(received[1]) == sent


async def test_what_finds_no_room_in_the_socket_is_sent_in_order_once_there_is(
    broker: Broker, worker: WorkerChannel
) -> None:
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)
    sent = [os.urandom(8 << 20), os.urandom(3), os.urandom(LARGE)]
    for number, payload in enumerate(sent):
        broker.send(PEER, Grant(1, number), [payload])
    for number, payload in enumerate(sent):
        received = await asyncio.to_thread(worker.receive, 10)
        assert received == (Grant(1, number), [payload])


async def test_a_pipe_takes_no_more_bytes_than_its_bound(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)
    accepted = send_until_refused(broker, bytes(MAX_MESSAGE_BYTES // 2))
    assert 1 <= accepted <= 4


async def test_a_name_that_is_connected_already_is_refused_to_another(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)
    parent = os.pidfd_open(os.getpid())
    other = WorkerChannel.connect(broker.endpoint, PEER, parent)
    with pytest.raises(PeerGone):
        await asyncio.to_thread(other.receive, 10)
    other.close()
    os.close(parent)
    worker.send(Failure(1, 2, "m"))
    await eventually(lambda: len(inbox.messages) == 2, what="the first one is heard as before")


async def test_a_worker_learns_that_the_front_end_is_gone_while_it_waits(tmp_path: Path) -> None:
    broker = Broker.open(tmp_path / "run")
    parent = os.pidfd_open(os.getpid())
    worker = WorkerChannel.connect(broker.endpoint, PEER, parent)
    inbox = Inbox(broker)
    worker.send(Hello(1, b"t", 1))
    await eventually(lambda: inbox.messages)
    waiting = asyncio.create_task(asyncio.to_thread(worker.receive))
    broker.close()
    with pytest.raises(PeerGone):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(PeerGone):
        worker.send(Failure(1, 1, "m"))
    worker.close()
    os.close(parent)


async def test_the_last_words_of_a_closed_peer_are_heard_and_then_it_is_gone(
    broker: Broker, worker: WorkerChannel
) -> None:
    inbox = Inbox(broker)
    worker.send(Failure(1, 1, "m"))
    worker.close()
    await eventually(lambda: inbox.messages)

    def is_gone() -> bool:
        try:
            broker.send(PEER, Stop(1))
        except PeerGone:
            return True
        return False

    await eventually(is_gone)


async def test_a_packet_above_the_limit_is_told_to_the_owner(broker: Broker, worker: WorkerChannel) -> None:
    inbox = Inbox(broker)
    worker._socket.send(b"\1" + bytes(MAX_PACKET_BYTES + 10))
    await eventually(lambda: inbox.refused)
    assert not inbox.messages


async def test_without_descriptors_connecting_waits_and_the_loop_has_its_rest(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox(broker)
    parent = os.pidfd_open(os.getpid())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    channel = WorkerChannel.connect(broker.endpoint, PEER, parent)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        await eventually(lambda: "worker_not_accepted" in caplog.messages)
        for _ in range(100):
            await asyncio.sleep(0)
        assert caplog.messages.count("worker_not_accepted") == 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        channel.send(Failure(1, 1, "m"), [b"p"])
        await eventually(lambda: inbox.has(1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        channel.close()
        os.close(parent)
