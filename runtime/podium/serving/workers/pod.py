"""`PodResources`: what all worker groups of a pod share. Opened once, by the wiring."""

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import msgspec

from podium.errors import WorkerLoadError
from podium.ipc.arena import Arena
from podium.ipc.bootstrap import ARENA_FD, BOOTSTRAP_FD, JOURNAL_FD, Bootstrap, write_bootstrap
from podium.ipc.channel import Broker
from podium.ipc.protocol import INLINE_BYTES
from podium.serving.workers.begun import BegunServer
from podium.serving.workers.forkserver import ForkLost, ForkServers, ForkServerUnavailable
from podium.serving.workers.gpu_shares import GpuShare, GpuShares
from podium.serving.workers.guarding import Guard
from podium.serving.workers.process import (
    ChildProcess,
    become_subreaper,
    end_strays,
    is_awaited,
    spawn,
    thread_environment,
)
from podium.serving.workers.reaper import Reaper
from podium.serving.workers.run_devices import RunDevices
from podium.serving.workers.turns import LoadTurns
from podium.telemetry.cpus import cpu_units
from podium.telemetry.logging import get_logger
from podium_crds.assignment import EngineKind, EngineSpec, Member
from podium_crds.reasons import Reason

log = get_logger(__name__)

SETS_ITS_THREADS = frozenset({EngineKind.TORCH, EngineKind.ONNX})
"""Engines whose number of threads is set when the model is loaded."""

FORKED_KINDS = frozenset({EngineKind.TORCH, EngineKind.ONNX, EngineKind.PYTHON, EngineKind.HANDLER})
"""Engines whose libraries survive a fork of a single-threaded process. Any other is spawned."""


@dataclass(frozen=True, slots=True)
class PodOptions:
    """Choices that tests and `podium serve` make."""

    inline_bytes: int = INLINE_BYTES
    debug_arena: bool = False
    """Fill freed slots with 0xDB."""
    use_fork_server: bool = True
    is_guarded: bool = False
    """A process outlives this one to end what models have started, unless a container does."""
    cpus: int | None = None
    """Threads of models that may run at once on the CPU; None: as many as the container has."""


class PodResources:
    """Arena, broker, fork servers and devices of one pod. Used from one event loop."""

    def __init__(
        self,
        arena: Arena,
        broker: Broker,
        options: PodOptions,
        fork_servers: ForkServers,
        guard: Guard | None = None,
    ) -> None:
        """Use `open`."""
        self.arena = arena
        self.broker = broker
        self.options = options
        self.devices = cuda_devices()
        """`cuda:N` for each GPU of the pod; empty on a pod without."""
        self.gpu_shares = GpuShares(self.devices)
        """Where members share GPUs by parts."""
        self.run_devices = RunDevices(options.cpus)
        self.load_turns = LoadTurns(options.cpus or cpu_units())
        self.fork_servers = fork_servers
        self._guard = guard
        self._children: dict[int, ChildProcess] = {}
        self._peers = count(1)
        self._next_device = 0
        self._reaper = asyncio.create_task(Reaper(is_awaited).run(), name="reaper")

    @classmethod
    async def open(
        cls,
        arena_bytes: int,
        run_dir: Path,
        options: PodOptions | None = None,
        begun: Sequence[BegunServer] = (),
    ) -> Self:
        """Creates the arena (populated: 0.6 s per GiB) and binds the control socket, in `run_dir` for a moment.

        Makes this process a subreaper, and takes over the fork servers that were `begun`. Raises OSError, or
        MemoryError where the arena does not fit.
        """
        options = options or PodOptions()
        become_subreaper()
        arena = await asyncio.to_thread(Arena.create, arena_bytes, debug=options.debug_arena)
        try:
            guard = Guard.start() if options.is_guarded else None
            broker = Broker.open(run_dir)
        except BaseException:
            arena.close()
            raise
        log.info("pod_resources_opened", arena_bytes=arena.size_bytes, devices=cuda_devices())
        return cls(arena, broker, options, ForkServers(begun), guard)

    async def close(self) -> None:
        """Ends fork servers and gives memory and socket back. Worker groups are stopped before."""
        self._reaper.cancel()
        with suppress(asyncio.CancelledError):
            await self._reaper
        await self.fork_servers.close()
        for child in list(self._children.values()):
            child.kill()
            await child.exited
        if self._guard is not None:
            await self._guard.close()
        self.run_devices.close()
        self.broker.close()
        self.arena.close()

    def room_bytes(self) -> int:
        """What a batch that closes now may take: a larger one would be halved, or travel by the socket."""
        return max(self.options.inline_bytes, self.arena.free_bytes)

    def new_peer(self, name: str, epoch: int) -> bytes:
        """A name that no worker of this pod had before."""
        return f"{name[:40]}:{epoch}:{next(self._peers)}".encode()

    def new_token(self) -> bytes:
        """What one worker says hello with."""
        return secrets.token_bytes(16)

    def share(self, member: Member, index: int) -> GpuShare | None:
        """The part of a GPU for an instance of a member that names one; None where it names none, or where the pod has
        no GPU and it can do without. The caller gives it back. Raises WorkerLoadError."""
        if member.gpu_fraction is None or member.engine.device == "Cpu":
            return None
        return self.gpu_shares.take(member, index) if self.devices else None

    def place(self, engine: EngineSpec) -> str:
        """The device of the next instance: round robin over the pod's GPUs. Raises WorkerLoadError without one."""
        if engine.device == "Cpu" or (engine.device == "Auto" and self.runs_on_cpu(engine)):
            return "cpu"
        if not self.devices:
            raise WorkerLoadError(Reason.INSUFFICIENT_GPU, "engine.device is Cuda, and this pod has no GPU")
        device = self.devices[self._next_device % len(self.devices)]
        self._next_device += 1
        return device

    def runs_on_cpu(self, engine: EngineSpec) -> bool:
        """Whether its instances run without a GPU."""
        return engine.device == "Cpu" or not self.devices

    def prepare(self, engine: EngineSpec) -> None:
        """Has the engine's libraries imported meanwhile, if its workers will be forked. Does not wait."""
        if self._forks(engine, "cpu" if self.runs_on_cpu(engine) else "cuda"):
            self.fork_servers.prepare(engine.kind)

    async def launch(self, engine: EngineSpec, bootstrap: Bootstrap, journal_fd: int) -> ChildProcess:
        """A worker process, forked where that is safe, else spawned. `journal_fd` stays the caller's.

        Raises OSError; ForkLost where a worker may have begun with this bootstrap: it is gone then, ask with another.
        Where the caller is cancelled meanwhile, the process is killed as soon as it is there.
        """
        task = asyncio.create_task(self._launch(engine, bootstrap, os.dup(journal_fd)), name="launch")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_kill_unwanted)
            raise

    async def end_strays(self) -> None:
        """Kills what dead workers have left behind: before their slots and their device are given to others."""
        async with self.fork_servers.births:
            if ended := await end_strays():
                log.warning("left_behind_processes_killed", pids=ended)

    async def _launch(self, engine: EngineSpec, bootstrap: Bootstrap, journal_fd: int) -> ChildProcess:
        if self._guard is not None:
            bootstrap = msgspec.structs.replace(bootstrap, family=self._guard.mark)
        bootstrap_fd = write_bootstrap(bootstrap)
        fds = (self.arena.fd, bootstrap_fd, journal_fd)
        try:
            child = await self._forked(engine, bootstrap.device, fds)
            if child is None:
                numbers = dict(zip((ARENA_FD, BOOTSTRAP_FD, JOURNAL_FD), fds, strict=True))
                child = spawn(("-m", "podium.worker.main"), numbers, thread_environment(engine.threads))
        finally:
            os.close(bootstrap_fd)
            os.close(journal_fd)
        if self._guard is not None:
            self._guard.watch(child)
        self._children[child.pid] = child
        child.exited.add_done_callback(lambda _: self._children.pop(child.pid, None))
        return child

    async def _forked(self, engine: EngineSpec, device: str, fds: tuple[int, int, int]) -> ChildProcess | None:
        if not self._forks(engine, device):
            return None
        try:
            return await self.fork_servers.fork(engine.kind, fds)
        except ForkLost:
            await self.end_strays()
            raise
        except ForkServerUnavailable:
            return None

    def _forks(self, engine: EngineSpec, device: str) -> bool:
        # CUDA does not survive a fork, and a library's thread pool is fixed when it is imported.
        fits = device == "cpu" and (engine.kind in SETS_ITS_THREADS or engine.threads == 1)
        return fits and engine.kind in FORKED_KINDS and self.options.use_fork_server


def _kill_unwanted(task: asyncio.Task[ChildProcess]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().kill()


def cuda_devices() -> tuple[str, ...]:
    """`cuda:N` for each NVIDIA device node of this container."""
    nodes = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return tuple(f"cuda:{index}" for index in range(len(nodes)))
