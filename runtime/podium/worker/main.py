"""Entry point of a worker: `python -m podium.worker.main`, or the same function in a child of the fork server.

Order: tie to the front end, connect, load, say Ready, answer until Stop. One thread does it all: in a blocking loop
where the engine answers batches alone, else on an event loop.
"""

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import assert_never

import msgspec

from podium.engines.base import AsyncEngine, ContractLoadError, Engine, StreamingEngine, context_of, user_error
from podium.engines.codec_engine import CodecEngine, codecs_of, forms_of
from podium.errors import PodiumError, ProtocolError, clipped
from podium.ipc.bootstrap import ARENA_FD, BOOTSTRAP_FD, FAMILY_VARIABLE, JOURNAL_FD, Bootstrap, Role, read_bootstrap
from podium.ipc.channel import WorkerChannel
from podium.ipc.journal import Journal
from podium.ipc.protocol import Hello, LoadFailed, Ready
from podium.ipc.view import ArenaView
from podium.worker.binding import bind_to_parent
from podium.worker.blocking import BlockingLoop
from podium.worker.devices import see_only
from podium.worker.instance import Instance
from podium.worker.limits import beyond, held_to, is_out_of_memory
from podium.worker.link import EXIT_LOAD_FAILED, EXIT_PROTOCOL, Link, Stopped
from podium.worker.streaming import StreamingLoop
from podium_crds.assignment import EngineKind, Member
from podium_crds.tensors import TensorSpec

MAX_CODEC_BYTES = 1 << 30
"""What one body may take while the model's own codec reads it."""


def serve(bootstrap: Bootstrap, channel: WorkerChannel, view: ArenaView, journal: Journal) -> int:
    """Loads, answers, unloads. Returns the exit status. Raises ProtocolError."""
    link = Link(channel, bootstrap.epoch)
    link.send(Hello(link.epoch, bootstrap.token, os.getpid()))
    started = time.perf_counter()
    artifact_dir = Path(bootstrap.artifact_dir)
    try:
        member = Member.model_validate_json(bootstrap.member)
        if bootstrap.role is Role.CODECS:
            return _serve_codecs(bootstrap, link, view, journal, member)
        device = see_only(bootstrap.device, member.engine.kind, os.environ)
        with held_to(bootstrap.load_bytes, artifact_dir):
            engine = build_engine(member, artifact_dir, device, bootstrap.load_bytes)
            if not isinstance(engine, AsyncEngine):
                engine.load()
                engine.warm_up()
                forms = forms_of(codecs_of(member.engine, artifact_dir))
    except BaseException as error:  # noqa: BLE001 - SystemExit in the user's load is a failed load, too
        return _refuse(link, error, bootstrap.load_bytes)
    if isinstance(engine, AsyncEngine):
        return asyncio.run(_serve_async(link, view, engine, member))
    gc.freeze()  # what a loaded model consists of is walked by no later collection
    instance = Instance(member, engine, view, bootstrap.inline_bytes, watches_inputs=bootstrap.watches_inputs)
    status = _answer(link, journal, instance, Ready(link.epoch, time.perf_counter() - started, forms=forms))
    engine.unload()
    return status


def _answer(link: Link, journal: Journal, instance: Instance, ready: Ready) -> int:
    """Says Ready and answers until Stop, in the loop that the engine needs."""
    engine = instance.engine
    if isinstance(engine, StreamingEngine) and engine.streams:
        link.send(msgspec.structs.replace(ready, infers=engine.infers, streams=True))
        return asyncio.run(_answer_streams(link, journal, instance, engine))
    link.send(ready)
    return BlockingLoop(link, journal, instance).run()


def _serve_codecs(bootstrap: Bootstrap, link: Link, view: ArenaView, journal: Journal, member: Member) -> int:
    """The whole life of a worker that runs the model's codecs: held to its memory to the end, since a small body may
    stand for a large picture. Raises what the model's code raises when it is imported."""
    artifact_dir = Path(bootstrap.artifact_dir)
    with held_to(min(bootstrap.load_bytes or MAX_CODEC_BYTES, MAX_CODEC_BYTES), artifact_dir):
        engine = CodecEngine(member.engine, artifact_dir)
        engine.load()
        gc.freeze()
        return _answer(link, journal, Instance(member, engine, view, bootstrap.inline_bytes), Ready(link.epoch, 0.0))


async def _answer_streams(link: Link, journal: Journal, instance: Instance, engine: StreamingEngine) -> int:
    loop = StreamingLoop(link, instance.view, engine, _declared(instance.member))
    if engine.infers:
        loop.answer_batches(journal, instance)
    return await loop.run()


async def _serve_async(link: Link, view: ArenaView, engine: AsyncEngine, member: Member) -> int:
    """The whole life of an engine that lives on the event loop."""
    started = time.perf_counter()
    try:
        await engine.load_async()
        await engine.warm_up_async()
    except BaseException as error:  # noqa: BLE001 - as in `serve`
        return _refuse(link, error)
    link.send(Ready(link.epoch, time.perf_counter() - started, infers=False, streams=True))
    status = await StreamingLoop(link, view, engine, _declared(member)).run()
    await engine.unload_async()
    return status


def _refuse(link: Link, error: BaseException, load_bytes: int | None = None) -> int:
    link.send(LoadFailed(link.epoch, load_failure(error, load_bytes), isinstance(error, ContractLoadError)))
    return exit_status(error)


def _declared(member: Member) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in member.outputs}


def build_engine(
    member: Member, artifact_dir: Path, device: str, load_bytes: int | None = None
) -> Engine | AsyncEngine:
    """The backend of that kind. Its libraries are imported here, unless the fork server had them. `load_bytes`: memory
    that the load may take, for engines that divide it up themselves."""
    context = context_of(member, artifact_dir, device)
    match member.engine.kind:
        case EngineKind.TORCH:
            from podium.engines.torch_engine import TorchEngine

            return TorchEngine(member.engine, context, member.outputs, member.inputs)
        case EngineKind.ONNX:
            from podium.engines.onnx_engine import OnnxEngine

            return OnnxEngine(member.engine, context, member.inputs, member.outputs)
        case EngineKind.PYTHON:
            from podium.engines.python_engine import PythonEngine

            return PythonEngine(member.engine.entrypoint, context)
        case EngineKind.HANDLER:
            from podium.engines.handler_engine import HandlerEngine

            return HandlerEngine(member.engine.entrypoint, context, member.outputs)
        case EngineKind.VLLM:
            from podium.engines.vllm.engine import VllmEngine

            return VllmEngine(member, artifact_dir, device, load_bytes)
    assert_never(member.engine.kind)


def load_failure(error: BaseException, load_bytes: int | None = None) -> str:
    """What the report says about a failed load. `load_bytes`: what it was held to."""
    if load_bytes is not None and is_out_of_memory(error):
        return clipped(f"{user_error(error)}\n{beyond(load_bytes)}")
    if isinstance(error, SystemExit):
        return f"the model ended its process while loading: sys.exit({error.code!r})"
    if isinstance(error, PodiumError):
        return clipped(str(error))
    return clipped(f"loading raised: {user_error(error)}")


def exit_status(error: BaseException) -> int:
    """The process's status after a failed load: the model's own where it asked for one."""
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code != 0:
        return error.code & 0xFF
    return EXIT_LOAD_FAILED


def run_worker(arena_fd: int, bootstrap_fd: int, journal_fd: int) -> int:
    """A worker's whole life in this process. Takes over the descriptors; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    bootstrap = read_bootstrap(bootstrap_fd)
    if bootstrap.family:
        os.environ[FAMILY_VARIABLE] = bootstrap.family
    parent_fd = bind_to_parent(bootstrap.parent_pid)
    view = ArenaView.attach(arena_fd, bootstrap.arena_bytes)
    channel = WorkerChannel.connect(bootstrap.endpoint, bootstrap.peer, parent_fd)
    try:
        return serve(bootstrap, channel, view, Journal(journal_fd))
    except Stopped as stopped:
        return stopped.status
    except ProtocolError as error:
        print(f"podium worker: {error}", file=sys.stderr)
        return EXIT_PROTOCOL
    finally:
        channel.close()


def main() -> None:
    """Runs the worker and ends the process without waiting for threads that the model left behind."""
    status = run_worker(ARENA_FD, BOOTSTRAP_FD, JOURNAL_FD)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
