"""Builds the runtime's object graph, once, and runs it from the first listener to the last byte."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from podium.artifacts import ArtifactStore, Limits
from podium.errors import PodiumError
from podium.http.codec.codecs import Codecs
from podium.http.inference.express import ExpressLane
from podium.http.inference.front import Door, FrontDoor
from podium.http.inference.server import QuietServer, bind
from podium.http.live.routes import LivePage, local_app, new_key
from podium.http.metrics.collector import registry
from podium.http.pages.admin import AdminTokens, admin_app
from podium.http.pages.app import cold_app
from podium.http.transport.access_log import AccessLog
from podium.http.transport.api_keys import ApiKeys
from podium.http.transport.lending import Lending
from podium.http.transport.limits import Limits as HttpLimits
from podium.http.transport.receiving import Receiving
from podium.serving.dispatch.group import PodOptions, PodResources
from podium.serving.revisions.assignments import AssignmentDesk
from podium.serving.revisions.drain import SETTLE_S, drain
from podium.serving.revisions.report import build_report
from podium.serving.revisions.residents import Residents
from podium.serving.revisions.shared_groups import SharedGroups
from podium.serving.workers.begun import BegunServer
from podium.settings import Settings
from podium.telemetry.cgroup import MemoryState, memory_state
from podium.telemetry.garbage import GarbageControl
from podium.telemetry.logging import get_logger
from podium.telemetry.loop_lag import LoopLag
from podium.telemetry.processes import available_bytes
from podium.telemetry.tracing import tracing
from podium_crds.assignment import Report

if TYPE_CHECKING:
    from podium.grpc_oip.server import GrpcServer

log = get_logger(__name__)

MIN_ARENA_BYTES = 32 << 20
RESERVE_BYTES = 96 << 20
"""What the front end and one small worker need beside the arena: less than that and the kernel kills at once."""
GARBAGE_INTERVAL_S = 1.0
GRPC_VERBOSITY = "GRPC_VERBOSITY"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StartError(PodiumError):
    """The process cannot start as it is configured. The message says what to change."""


@dataclass(slots=True)
class Runtime:
    """The running parts of one process."""

    settings: Settings
    residents: Residents
    data: QuietServer
    stop: asyncio.Event
    """Set by SIGTERM or SIGINT."""
    failed: asyncio.Event
    """Set when a part that must run has ended."""
    grpc: "GrpcServer | None" = None
    removals: "set[asyncio.Task[None]]" = field(default_factory=set)
    """Resources on their way out; awaited at the end."""

    async def until_stopped(self) -> None:
        """Waits for a signal, or for a part to break. Raises StartError for the latter."""
        waits = [asyncio.create_task(event.wait()) for event in (self.stop, self.failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.failed.is_set():
            raise StartError("a part of the runtime ended unexpectedly; its error is in the log")

    def run_beside(self, work: Coroutine[object, object, None], name: str) -> "asyncio.Task[None]":
        """Runs a part that must not end before the process does."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._watch_part)
        return task

    def _watch_part(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("part_ended", error=task.exception(), part=task.get_name())
            self.failed.set()

    async def drain(self, *, propagation_s: int | None = None) -> None:
        """From SIGTERM to the last byte (serving/revisions/drain.py)."""
        policy = self.residents.drain_policy
        if propagation_s is not None:
            policy = policy.model_copy(update={"propagation_seconds": propagation_s})
        settle_s = SETTLE_S if self.grpc is None else max(SETTLE_S, self.grpc.longest_age_s)
        await drain(self.residents.drain, policy, asyncio.get_running_loop().time, settle_s)
        await self.close_ports()

    async def close_ports(self) -> None:
        """No request comes in any more; those under way have the margin. Idempotent."""
        margin_s = self.settings.drain_margin_seconds
        if self.grpc is not None:
            await self.grpc.close(margin_s)
        await self.data.close(margin_s)


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, *, artifact_cache_bytes: int | None = None, begun: Sequence[BegunServer] = ()
) -> AsyncIterator[Runtime]:
    """The data port and everything behind it; on exit workers stop and all is given back.

    `artifact_cache_bytes`: unused artifacts beyond it are removed; None: never, since other processes may use them.
    `begun`: fork servers to take over. Raises StartError where memory does not suffice, OSError where the port is
    taken.
    """
    loop = asyncio.get_running_loop()
    listener = bind(settings.host, settings.data_port)
    store = ArtifactStore(settings.state_dir / "artifacts", _artifact_limits(settings, artifact_cache_bytes))
    await asyncio.to_thread(store.open)
    with tempfile.TemporaryDirectory(prefix="podium-") as run_dir:
        options = PodOptions(debug_arena=settings.arena_debug, is_guarded=True)
        resources = await PodResources.open(arena_bytes(settings), Path(run_dir), options, begun=begun)
    try:
        residents = Residents(SharedGroups(resources, store, settings.drain_margin_seconds), loop.time)
        garbage = GarbageControl()
        lag = LoopLag()
        limits = HttpLimits(settings.max_body_bytes, settings.max_json_bytes)
        keys = ApiKeys(settings.api_keys_path) if settings.api_keys_path is not None else None
        codecs = Codecs(resources.arena)
        access_log = AccessLog(enabled=settings.access_log)
        spans = tracing(os.environ)
        door = Door(limits, keys, access_log, Receiving(resources.arena), codecs, Lending(resources.arena), spans)
        metrics = registry(residents, resources.arena, door.lending, garbage, lag)
        cold = cold_app(residents, metrics, with_docs=settings.docs, keys=keys)
        front = FrontDoor(residents, door, cold, loop.time)
        lane = ExpressLane(residents, door, loop.time)
        runtime = Runtime(settings, residents, QuietServer(front, listener, lane), asyncio.Event(), asyncio.Event())
        await runtime.data.open()
        log.info("data_port_open", port=runtime.data.port)
        if settings.grpc_port is not None:
            runtime.grpc = await _open_grpc(settings, residents, door)
        _take_signals(loop, runtime.stop)
        health = runtime.run_beside(residents.watch_health(), "health")
        lagging = runtime.run_beside(lag.watch(), "loop lag")
        collect = runtime.run_beside(_collect_garbage(garbage, residents), "garbage")
        garbage.start()
        try:
            yield runtime
        finally:
            await _cancel(health)
            await _cancel(collect)
            await _cancel(lagging)
            garbage.stop()
            await asyncio.gather(*runtime.removals)
            await runtime.close_ports()
            await codecs.close()
            if spans is not None:
                await asyncio.to_thread(spans.close)
            await residents.end()
    finally:
        await resources.close()
        store.close()


async def serve_pod(settings: Settings, begun: Sequence[BegunServer] = ()) -> None:
    """`podium serve --pod`: serves what the operator assigns, until SIGTERM and the drain that follows it."""
    if not settings.pod_uid:
        raise StartError("PODIUM_POD_UID is empty; expected the pod's metadata.uid (downward API)")
    async with opened(settings, artifact_cache_bytes=settings.artifact_cache_bytes, begun=begun) as runtime:
        residents = runtime.residents
        desk = AssignmentDesk(
            settings.assignment_dir,
            settings.state_dir,
            settings.pod_uid,
            lambda assignment: _ignore(residents.apply(assignment)),
        )
        await desk.restore()  # before anybody can push
        admin = await _open_admin(settings, residents, desk)
        watch = runtime.run_beside(desk.watch(settings.mount_poll_seconds), "mount watch")
        try:
            await runtime.until_stopped()
            await runtime.drain()
        finally:
            await _cancel(watch)
            await admin.close(1.0)


async def _open_grpc(settings: Settings, residents: Residents, door: Door) -> "GrpcServer":
    """Raises OSError where the port is taken."""
    with _quiet_grpc():
        from podium.grpc_oip.server import GrpcServer, GrpcService  # gRPC takes 15 MiB: only where it is asked for

        service = GrpcService(residents, door, asyncio.get_running_loop().time)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        server = GrpcServer(service, f"{host}:{settings.grpc_port}", settings.grpc_connection_age_seconds)
    await server.open()
    return server


@contextlib.contextmanager
def _quiet_grpc() -> Iterator[None]:
    """gRPC's core, which reads its settings when it is loaded, would write a line for each bad message of a client.
    Models, which may be its clients, keep their own."""
    if GRPC_VERBOSITY in os.environ:
        yield
        return
    os.environ[GRPC_VERBOSITY] = "NONE"
    try:
        yield
    finally:
        del os.environ[GRPC_VERBOSITY]


async def _open_admin(settings: Settings, residents: Residents, desk: AssignmentDesk) -> QuietServer:
    runtime_version = version("podium")

    def report() -> Report:
        return build_report(residents, desk, settings.pod_uid, runtime_version)

    tokens = AdminTokens(settings.admin_key_dir, settings.pod_uid)
    page = LivePage(residents, asyncio.get_running_loop().time)
    server = QuietServer(admin_app(desk, tokens, report, page), bind(settings.host, settings.admin_port))
    await server.open()
    log.info("admin_port_open", port=server.port)
    return server


@contextlib.asynccontextmanager
async def live_page(residents: Residents) -> AsyncIterator[str]:
    """The live page on a free port of loopback; gives its address. Only who is told the address can ask for it: the
    admin port of a pod has its token instead. Raises OSError."""
    key = new_key()
    page = LivePage(residents, asyncio.get_running_loop().time)
    server = QuietServer(local_app(page, key), bind("127.0.0.1", 0))
    await server.open()
    try:
        yield f"http://127.0.0.1:{server.port}/{key}/live"
    finally:
        await server.close(1.0)


async def _collect_garbage(garbage: GarbageControl, residents: Residents) -> None:
    """Full collections while nothing is answered; after each change of routes, what is there is frozen."""
    table = residents.router.table
    while True:
        await asyncio.sleep(GARBAGE_INTERVAL_S)
        if residents.router.table is not table:
            table = residents.router.table
            garbage.freeze()
        garbage.tick(idle=residents.drain.in_flight == 0)


def arena_bytes(settings: Settings, state: MemoryState | None = None, available: int | None = None) -> int:
    """Size of the arena: as set, else twice the largest body, between 32 MiB and a tenth of the memory limit.

    `state` of the container and `available` bytes of the machine: as of now by default. Raises StartError where it
    does not fit beside what is in use and a first small worker; models are held to what is left when they load.
    """
    memory = state or memory_state()
    machine = available_bytes() if available is None else available
    limit = memory.limit_bytes or machine
    size = settings.arena_bytes
    if size is None:
        size = max(MIN_ARENA_BYTES, min(2 * settings.max_body_bytes, limit // 10))
    headroom = memory.headroom_bytes
    if headroom is not None and size + RESERVE_BYTES > headroom:
        raise StartError(
            f"an arena of {size} bytes and {RESERVE_BYTES} bytes for the processes do not fit into the memory limit of "
            f"{memory.limit_bytes} bytes, of which {headroom} are left: raise resources.limits.memory or lower "
            "sharedMemory.arenaBytes"
        )
    if size + RESERVE_BYTES > machine:
        raise StartError(
            f"an arena of {size} bytes and {RESERVE_BYTES} bytes for the processes do not fit into the {machine} bytes "
            "that this machine has left: lower sharedMemory.arenaBytes (PODIUM_ARENA_BYTES)"
        )
    return size


def _artifact_limits(settings: Settings, cache_bytes: int | None) -> Limits:
    return Limits(
        timeout_s=settings.artifact_timeout_seconds,
        attempts=settings.artifact_attempts,
        total_bytes=settings.max_artifact_bytes,
        cache_bytes=cache_bytes,
    )


def _take_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first signal asks for the drain; a second SIGINT (an impatient terminal) ends the process at once."""

    def on_signal(number: int) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os._exit(130)
        log.info("signal_received", signal=signal.Signals(number).name)
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait((task,))


def _ignore(_value: object) -> None:
    """A callback whose result nobody wants."""
