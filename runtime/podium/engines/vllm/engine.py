"""The VLLM engine: vLLM's AsyncLLM, asked through vLLM's own OpenAI application, all in the worker's process.

A stream's request is `path` and `body`, one BYTES element each: what the client sent, where. Its chunks are `status`
(INT32) and `type` (BYTES) once, first of all, then `body` (BYTES): the response as vLLM writes it, so that templates,
tools, logprobs, usage and the wording of errors are vLLM's. Whatever engine answers in this form serves these routes.
"""

import asyncio
import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from podium.engines.base import Arrays, LoadError, StreamRequest
from podium.engines.vllm.arguments import checked_arguments
from podium.engines.vllm.call import App, Exchange, Head
from podium.engines.vllm.guard import cache_folder, forget_semaphores, private_folder, start_guard
from podium.engines.vllm.measure import Measures
from podium.engines.vllm.plugin import NAME
from podium.errors import InvalidInput
from podium.ipc.llm_stats import LlmStats
from podium.telemetry.processes import available_bytes
from podium.weights.vllm import need_of, ranks_of
from podium_crds.assignment import Member

PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
MAX_PIECE_BYTES = 256 << 10
"""Longer parts of a response are cut: a chunk has an upper bound."""
SLOW_READER_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 2.0
HEALTH_INTERVAL_S = 0.5
NO_MEDIA = ("none.invalid",)
"""Hosts that a request may have images fetched from, unless the resource names some. An empty list would mean any."""


class VllmEngine:
    """One model in vLLM. All calls on one event loop."""

    slow_reader_timeout_s: float | None = SLOW_READER_TIMEOUT_S

    def __init__(self, member: Member, artifact_dir: Path, device: str, load_bytes: int | None = None) -> None:
        """Nothing is imported yet. `load_bytes`: memory that a load on a CPU may take; None: what the machine has."""
        self._member = member
        self._artifact_dir = artifact_dir
        self._device = device
        self._load_bytes = load_bytes
        self._measures = Measures()
        self._folder: Path | None = None
        self._guard: object = None
        self._app: App | None = None
        self._llm: Any = None

    async def load_async(self) -> None:
        """Starts vLLM's engine process and waits until it has the weights. Raises LoadError, or what vLLM raises."""
        self._folder = private_folder()
        os.environ.update(environment(self._folder))
        if self._device.startswith("cuda:") and self._ranks() == 1:
            # vLLM takes the first device that it sees; the one of this instance may be another.
            os.environ["CUDA_VISIBLE_DEVICES"] = self._device.removeprefix("cuda:")
        if self._device == "cpu" and self._member.engine.parameters.get("enforce_eager", True):
            # vLLM compiles a part of its sampler also in eager mode; without a compiler, logprobs would fail.
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        tempfile.tempdir = None  # read anew: vLLM's sockets go where TMPDIR says
        self._guard = start_guard(self._folder)
        try:
            import vllm  # noqa: F401 - that it is here at all
        except ImportError as error:
            raise LoadError(
                f"this runtime image has no vLLM ({error}); set runtime.image to one that has it"
            ) from error
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.v1.engine.async_llm import AsyncLLM

        options = _server_options(self._arguments())
        try:
            arguments = AsyncEngineArgs.from_cli_args(options)
            self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._measures.factory])
        except (ValueError, TypeError) as error:
            raise LoadError(f"vLLM does not take this model or these engineArgs: {error}") from error
        tasks = await self._llm.get_supported_tasks()
        if "generate" not in tasks:
            raise LoadError(f"the model does not generate text; vLLM would use it to {', '.join(tasks)}")
        app = build_app(options, tasks, self._llm.model_config)
        await init_app_state(self._llm, app.state, options, tasks)
        app.state.server = SimpleNamespace(
            should_exit=False
        )  # what vLLM tells of its engine's death; `until_broken` sees it
        self._app = app
        forget_semaphores()

    async def warm_up_async(self) -> None:
        """One token, so that what is made at the first forward is made."""
        from vllm import SamplingParams

        prompt = {"prompt_token_ids": [0]}
        async for _ in self._llm.generate(prompt, SamplingParams(max_tokens=1), "warm-up"):
            pass

    async def stream(self, request: StreamRequest) -> AsyncIterator[Arrays]:
        """The response of vLLM's application. Closing it aborts the request in vLLM. Raises InvalidInput."""
        assert self._app is not None
        path, body = _element(request, "path").decode("latin-1"), _element(request, "body")
        if path not in PATHS:
            raise InvalidInput(f"engine VLLM does not serve {path[:80]!r}; expected one of {', '.join(sorted(PATHS))}")
        parts = Exchange(self._app, path, body).parts()
        try:
            async for part in parts:
                if self._llm.errored:
                    await asyncio.Event().wait()  # the worker ends in a moment, and that is what the client is told
                if isinstance(part, Head):
                    yield {"status": np.array([part.status], np.int32), "type": _bytes(part.content_type.encode())}
                else:
                    for start in range(0, len(part), MAX_PIECE_BYTES):
                        yield {"body": _bytes(part[start : start + MAX_PIECE_BYTES])}
        finally:
            await parts.aclose()  # type: ignore[attr-defined]

    async def until_broken(self) -> str:
        """Returns when vLLM's engine process has ended or gives no more answers."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        watched = [os.pidfd_open(pid) for pid in engine_pids(self._llm)]
        for pidfd in watched:
            loop.add_reader(pidfd, ended.set)
        try:
            while not (ended.is_set() or self._llm.errored):
                try:
                    await asyncio.wait_for(ended.wait(), HEALTH_INTERVAL_S)
                except TimeoutError:
                    continue
        finally:
            for pidfd in watched:
                loop.remove_reader(pidfd)
                os.close(pidfd)
        return "vLLM's engine process has ended" if ended.is_set() else f"vLLM is broken: {self._llm.dead_error}"

    def stats(self) -> LlmStats:
        """What vLLM measured since the load."""
        return self._measures.read()

    async def unload_async(self) -> None:
        """Ends vLLM's processes."""
        llm, self._llm = self._llm, None
        if llm is not None and not llm.errored:
            await asyncio.to_thread(llm.shutdown, timeout=SHUTDOWN_TIMEOUT_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ranks(self) -> int:
        """GPUs that one instance takes. Raises LoadError where they would be shared with another's."""
        sizes = [self._member.engine.parameters.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
        ranks = math.prod(size for size in sizes if isinstance(size, int))
        if ranks > 1 and self._member.instances > 1:
            raise LoadError(
                f"{self._member.instances} instances of {ranks} GPUs each would share them: set instances: 1, and "
                "replicas for more"
            )
        return ranks

    def _arguments(self) -> dict[str, Any]:
        """Every engine argument that is not vLLM's default. Raises LoadError."""
        from vllm import __version__
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        on_cpu = self._device == "cpu"
        if current_platform.is_cpu() != on_cpu:
            built_for = "CPUs" if current_platform.is_cpu() else f"{current_platform.device_type} devices"
            raise LoadError(
                f"the vLLM of this image is built for {built_for}, and the model is to run on {self._device}: set "
                "vllm.device, or runtime.image to an image with the other build"
            )
        known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
        given = checked_arguments(self._member.engine.parameters, known, __version__)
        defaults: dict[str, Any] = {"allowed_media_domains": list(NO_MEDIA)}
        if on_cpu:
            # Compiling needs a C++ compiler, which no image of ours has.
            defaults |= {"enforce_eager": True, "max_model_len": -1}
            budget = available_bytes() if self._load_bytes is None else self._load_bytes
            need = need_of(self._artifact_dir, given, budget)
            defaults["kv_cache_memory_bytes"] = need.kv_cache // ranks_of(given)
        elif self._member.gpu_fraction is not None:
            defaults["gpu_memory_utilization"] = self._member.gpu_fraction
        own = {
            "model": str(self._artifact_dir),
            "served_model_name": [self._member.name, f"{self._member.name}@{self._member.version}"],
            "trust_remote_code": self._member.trust_remote_code,
            "disable_log_stats": True,
        }
        return {**defaults, **given, **own}


def environment(private: Path) -> dict[str, str]:
    """What vLLM and the libraries under it read at their import: no network, no plug-in but ours, private files."""
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": NAME,
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # On a CPU the engine process computes by itself: one process, one import and one segment of shared memory less.
        # vLLM has another process only to set its thread count, and ours is set from the worker's start on.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(cache_folder(private)),
        "VLLM_CONFIG_ROOT": f"{private}/config",
        "TORCHINDUCTOR_CACHE_DIR": f"{private}/inductor",
        "TRITON_CACHE_DIR": f"{private}/triton",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TMPDIR": str(private),
    }


def engine_pids(llm: Any) -> list[int]:
    """Processes that vLLM started directly and cannot do without."""
    manager = llm.engine_core.resources.engine_manager
    return [process.pid for process in manager.processes if process.pid is not None]


def _server_options(arguments: Mapping[str, Any]) -> Any:
    """The options of vLLM's server: its defaults, with the engine's arguments among them."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for name, value in arguments.items():
        setattr(options, name, value)
    options.disable_fastapi_docs = True
    options.log_error_stack = False
    return options


def _element(request: StreamRequest, name: str) -> bytes:
    tensor = request.inputs.get(name)
    values: list[Any] = list(tensor.array().reshape(-1)) if tensor is not None else []
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise InvalidInput("engine VLLM answers /v1/completions and /v1/chat/completions, and no named tensors")
    return values[0]


def _bytes(value: bytes) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = value
    return array
