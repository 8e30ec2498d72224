"""`podium serve`: from files, with a hot swap on every change; or as a pod."""

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
import uvloop
from pydantic import ValidationError

from podium import wiring
from podium.cli.following import Follower
from podium.cli.local_files import compile_texts, explain, read_texts
from podium.cli.progress import Progress
from podium.errors import PodiumError
from podium.serving.workers.begun import BegunServer
from podium.settings import Settings, UnknownSettingError, read_settings
from podium.telemetry.logging import configure
from podium_crds.errors import CrdsError


@dataclass(frozen=True, slots=True)
class Listening:
    """Where requests come in. Port 0 takes a free one."""

    host: str
    port: int
    grpc_port: int | None = None
    """None: as PODIUM_GRPC_PORT has it."""


def serve_in_pod(begun: Sequence[BegunServer] = ()) -> int:
    """Serves what the operator assigns. `begun`: fork servers to take over. Exit status 0 after a drain."""
    try:
        settings = read_settings()
    except (UnknownSettingError, ValidationError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    configure(settings.log_level, as_json=settings.log_format == "json")
    return _run(wiring.serve_pod(settings, begun))


def serve_files(
    paths: tuple[Path, ...],
    where: Listening,
    api_key_file: Path | None = None,
    begun: Sequence[BegunServer] = (),
) -> int:
    """Serves what the files say until interrupted. `begun`: fork servers to take over."""
    try:
        grpc: dict[str, object] = {} if where.grpc_port is None else {"grpc_port": where.grpc_port}
        settings = read_settings(
            None,
            **grpc,
            host=where.host,
            data_port=where.port,
            state_dir=state_dir(),
            log_format="terminal",
            log_level=_log_level(),
            api_keys_path=api_key_file or _api_keys_path(),
        )
        texts = read_texts(paths)
        compile_texts(texts)
    except CrdsError as error:
        for line in explain(error):
            typer.echo(f"error: {line}", err=True)
        return 1
    except (UnknownSettingError, ValidationError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    configure(settings.log_level, as_json=False)
    return _run(_serve_files(settings, paths, texts, begun))


async def _serve_files(
    settings: Settings, paths: tuple[Path, ...], texts: Mapping[Path, str], begun: Sequence[BegunServer]
) -> None:
    async with wiring.opened(settings, begun=begun) as runtime:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        typer.echo(f"listening on http://{host}:{runtime.data.port} (Ctrl-C ends it)")
        if runtime.grpc is not None:
            typer.echo(f"gRPC on {settings.host}:{runtime.grpc.port}")
        progress = Progress(runtime.residents)
        follower = Follower(runtime, paths, texts)

        def changed() -> None:
            progress.show()
            follower.look()

        runtime.residents.on_change = changed
        follower.apply()
        watch = runtime.run_beside(follower.follow(), "file watch")
        try:
            async with wiring.live_page(runtime.residents) as address:
                typer.echo(f"live page on {address} (for this machine, and whoever has the address)")
                await runtime.until_stopped()
                typer.echo("stopping: answering what is in flight")
                await runtime.drain()
        finally:
            watch.cancel()


def _run(main: Coroutine[object, object, None]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except PodiumError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    return 0


def state_dir() -> Path:
    """Where artifacts are kept between runs."""
    if given := os.environ.get("PODIUM_STATE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podium"


def _api_keys_path() -> Path | None:
    return Path(given) if (given := os.environ.get("PODIUM_API_KEYS_PATH")) else None


def _log_level() -> str:
    """Progress lines say what people want to know; the log adds to them only when asked."""
    return os.environ.get("PODIUM_LOG_LEVEL", "WARNING")
