"""Every server that echo and tensor are measured on, and their settings."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks import models
from benchmarks.peers import wire
from benchmarks.peers.environments import Environment
from benchmarks.peers.server import Contender, Launch

PROGRAMS = Path(__file__).parent.parent / "programs"
MOSEC = Environment("mosec-0.9.8", ("mosec==0.9.8", "orjson==3.13.0", "numpy==2.4.6"))
LITSERVE = Environment("litserve-0.2.19", ("litserve==0.2.19", "numpy==2.4.6"))
FORGE = Environment("forge-0.2.1", ("forge-ml-serve==0.2.1", "torch==2.15.0", "numpy==2.4.6"))
TRITON = Environment("pytriton-0.7.0", ("nvidia-pytriton==0.7.0", "numpy<2"), "/usr/bin/python3")
TRITON_CONFIG = """
name: "echo"
backend: "python"
max_batch_size: {max_batch}
input [{{name: "x" data_type: TYPE_FP32 dims: [{width}]}}]
output [{{name: "y" data_type: TYPE_FP32 dims: [{width}]}}]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [{{kind: KIND_CPU count: 1}}]
"""


def podium(
    name: str,
    documents: list[Mapping[str, object]],
    *,
    model: str = "echo",
    program: str = "",
    json_bytes: int = 8 << 20,
) -> Contender:
    """This project's server, on those resources."""

    def launch(port: int, directory: Path) -> Launch:
        file = directory / "resources.yaml"
        file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
        start = (
            [sys.executable, str(PROGRAMS / program)] if program else [str(Path(sys.executable).with_name("podium"))]
        )
        return Launch(
            [*start, "serve", "-f", str(file), "--port", str(port)], {"PODIUM_MAX_JSON_BYTES": str(json_bytes)}
        )

    return Contender(name, wire.oip(model), launch, "/v2/health/ready")


def triton(delay_us: int, *, width: int = models.ECHO_WIDTH, max_batch: int = models.ECHO_BATCH) -> Contender:
    """The tritonserver inside nvidia-pytriton with its Python backend and a model repository of ours: no proxy."""

    def launch(port: int, directory: Path) -> Launch:
        interpreter = TRITON.interpreter()
        packages = TRITON.packages()
        inside = packages / "pytriton" / "tritonserver"
        _triton_backend(inside, directory / "backends" / "python")
        version = directory / "repository" / "echo" / "1"
        version.mkdir(parents=True)
        config = TRITON_CONFIG.format(width=width, max_batch=max_batch, delay_us=delay_us)
        (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
        (version / "model.py").symlink_to(PROGRAMS / "triton_model.py")
        command = [str(inside / "bin" / "tritonserver"), "--model-repository", str(version.parent.parent)]
        command += ["--backend-directory", str(directory / "backends"), "--http-address", "127.0.0.1"]
        command += ["--http-port", str(port), "--allow-grpc=false", "--allow-metrics=true", "--metrics-port", "0"]
        env = {
            "PATH": f"{interpreter.parent}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{inside / 'external_libs'}:{inside / 'lib'}",
            "PYTHONPATH": str(packages),
        }
        return Launch(command, env)

    return Contender(
        f"Triton, Python backend, delay {delay_us / 1000:g} ms", wire.oip("echo"), launch, "/v2/health/ready"
    )


def _triton_backend(inside: Path, directory: Path) -> None:
    """A backend directory as tritonserver looks for it: the wheel keeps the stubs elsewhere."""
    directory.mkdir(parents=True)
    for file in (*(inside / "backends" / "python").iterdir(), *(inside / "python_backend_stubs" / "3.11").iterdir()):
        (directory / file.name).symlink_to(file)


def mosec(wait_ms: int, codec: str = "json") -> Contender:
    """mosec with batches of up to 64, its own JSON or orjson. Its health page is `/`."""

    def launch(port: int, directory: Path) -> Launch:
        del directory
        command = [str(MOSEC.interpreter()), str(PROGRAMS / "mosec_echo.py"), str(port)]
        return Launch(command, {"MAX_BATCH": str(models.ECHO_BATCH), "WAIT_MS": str(wait_ms), "CODEC": codec})

    return Contender(f"mosec, {codec}, wait {wait_ms} ms", wire.plain("/inference"), launch)


def litserve(wait_s: float) -> Contender:
    """LitServe with batches of up to 64."""

    def launch(port: int, directory: Path) -> Launch:
        del directory
        arguments = [str(port), str(models.ECHO_BATCH), str(wait_s)]
        return Launch([str(LITSERVE.interpreter()), str(PROGRAMS / "litserve_echo.py"), *arguments])

    return Contender(f"LitServe, wait {wait_s * 1000:g} ms", wire.plain("/predict"), launch, "/health")


def forge(window_ms: float) -> Contender:
    """Forge with batches of up to 64; its window polls, so there is no zero."""

    def launch(port: int, directory: Path) -> Launch:
        del directory
        arguments = [str(port), str(window_ms), str(models.ECHO_BATCH)]
        return Launch([str(FORGE.interpreter()), str(PROGRAMS / "forge_echo.py"), *arguments])

    return Contender(f"Forge, window {window_ms:g} ms", wire.forge(), launch, "/health")


def own(name: str, program: str, wire_of: wire.Wire, *options: str) -> Contender:
    """A program that runs in this project's environment."""

    def launch(port: int, directory: Path) -> Launch:
        del directory
        return Launch([sys.executable, str(PROGRAMS / program), str(port), *options])

    return Contender(name, wire_of, launch)
