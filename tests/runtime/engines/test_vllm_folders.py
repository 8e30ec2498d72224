"""Where vLLM's files go: one folder a worker, and a cache that is nobody else's."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.serving.processes import until
from tests.support.alive import alive

from podium.engines.vllm.guard import cache_folder, private_folder


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files: its path is as short as sockets need it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_folders_of_workers_that_are_no_more_are_removed(temporary: Path) -> None:
    dead, alive, other = (temporary / name for name in ("podium-vllm-4194305", "podium-vllm-1", "podium-vllm-x"))
    for folder in (dead, alive, other):
        folder.mkdir()
    own = private_folder()
    assert own.stat().st_mode & 0o077 == 0
    assert (dead.exists(), alive.exists(), other.exists()) == (False, True, True)


def test_the_folder_is_where_sockets_fit_though_the_temporary_one_is_deep(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    own = private_folder()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(own / str(uuid.uuid4())))
    finally:
        shutil.rmtree(own)


def test_the_cache_is_kept_between_workers() -> None:
    first = cache_folder(private_folder())
    (first / "found").touch()
    second = cache_folder(private_folder())
    assert (second / "found").exists()


def test_a_cache_that_others_may_write_to_is_not_used(temporary: Path) -> None:
    planted = temporary / f"podium-cache-vllm-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    private = private_folder()
    assert cache_folder(private) == private / "cache"


def test_a_link_in_its_place_is_not_followed(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (temporary / f"podium-cache-vllm-{os.getuid()}").symlink_to(elsewhere)
    private = private_folder()
    assert cache_folder(private) == private / "cache"


HOLDER = """
import multiprocessing, os
from pathlib import Path
from podium.engines.vllm.guard import forget_semaphores
lock = multiprocessing.get_context("spawn").Lock()
name = Path("/dev/shm", "sem." + lock._semlock.name.lstrip("/"))
before = name.exists()
forget_semaphores()
with lock:
    print(before, name.exists(), flush=True)
os._exit(0)
"""


def test_a_semaphore_is_held_on_without_its_name() -> None:
    command = [sys.executable, "-c", HOLDER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True, check=True)
    assert ended.stdout.split() == ["True", "False"]


STARTER = """
import subprocess, sys
from pathlib import Path
from podium.engines.vllm.guard import start_guard
folder = Path(sys.argv[1])
(folder / "socket").touch()
engine = subprocess.Popen(["sleep", "987654"], env={})
guard = start_guard(folder)
print(engine.pid, guard.pid, flush=True)
engine.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_engine_and_its_files_end_with_their_worker(temporary: Path, number: signal.Signals) -> None:
    folder = temporary / "files"
    folder.mkdir()
    command = [sys.executable, "-c", STARTER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as worker:
        assert worker.stdout is not None
        engine, guard = map(int, worker.stdout.readline().split())
        assert folder.exists()
        worker.send_signal(number)
    until(lambda: not alive(engine), "the engine has ended")
    until(lambda: not folder.exists(), "its files are gone")
    until(lambda: not alive(guard), "so has the guard")


def test_a_tool_run_by_hand_has_no_guard_that_would_end_its_shell(temporary: Path) -> None:
    script = "import os; from podium.engines.vllm.guard import start_guard; print(start_guard('/nowhere'), flush=True)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "None"
