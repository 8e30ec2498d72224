"""Runs `podium` as users and kubelets do: a process of its own, its output kept, ended by its pid."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from podium_crds.assignment import Assignment, Report
from podium_crds.keys import ADMIN_ASSIGNMENT_PATH, ADMIN_REPORT_PATH, ASSIGNMENT_FILE
from podium_crds.token import admin_token

PODIUM = Path(sys.executable).parent / "podium"
KEY = b"an-admin-key-of-32-bytes-or-more"
WITHIN_S = 60.0
_T = TypeVar("_T")


def until(probe: Callable[[], _T | None], what: str | Callable[[], str], within_s: float = WITHIN_S) -> _T:
    """The first truthy value of `probe`; AssertionError with `what`, as it is at the deadline, and the last value."""
    deadline = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within_s:g} s: {told}; last: {value!r}")
        time.sleep(0.02)


class Podium:
    """A running `podium` process and the lines it has printed."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], prefix: Sequence[str] = ()) -> None:
        """`prefix`: a command that runs another one."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")}
        self._process = subprocess.Popen(
            [*prefix, str(PODIUM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def says(self, text: str, *, after: int = 0, within_s: float = WITHIN_S) -> str:
        """The first line (from line `after` on) that contains `text`."""

        def seen() -> str | None:
            found = next((line for line in self.lines[after:] if text in line), None)
            assert found or self._process.poll() is None, f"ended with {self._process.returncode}: {self.tail()}"
            return found

        return until(seen, lambda: f"a line with {text!r} in:\n{self.tail()}", within_s)

    def tail(self) -> str:
        return "\n".join(self.lines[-60:])

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def ends(self, within_s: float = WITHIN_S) -> int:
        """The exit status, once it has ended."""
        return self._process.wait(within_s)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))


class Server(Podium):
    """`podium serve -f` on a port of its own."""

    @property
    def url(self) -> str:
        """Where `podium serve -f` answers."""
        return self.says("listening on").split()[2]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        found = re.search(r":(\d+)", self.says("gRPC on"))
        assert found, self.tail()
        return int(found[1])


class RunningPod(Podium):
    """`podium serve --pod` with its mounts in a folder."""

    def __init__(self, folder: Path, uid: str = "uid-1", prefix: Sequence[str] = (), **environment: str) -> None:
        self.folder = folder
        self.uid = uid
        for name in ("mount", "keys", "state"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "keys" / "current").write_bytes(KEY)
        settings = {
            "PODIUM_HOST": "127.0.0.1",
            "PODIUM_DATA_PORT": "0",
            "PODIUM_ADMIN_PORT": "0",
            "PODIUM_POD_UID": uid,
            "PODIUM_ASSIGNMENT_DIR": str(folder / "mount"),
            "PODIUM_ADMIN_KEY_DIR": str(folder / "keys"),
            "PODIUM_STATE_DIR": str(folder / "state"),
            "PODIUM_MOUNT_POLL_SECONDS": "0.1",
            "PODIUM_ARENA_BYTES": str(8 << 20),
            "PODIUM_DRAIN_MARGIN_SECONDS": "2",
        }
        super().__init__(["serve", "--pod"], {**settings, **environment}, prefix)
        self.port = self._fact("data_port_open", "port")
        self.admin_port = self._fact("admin_port_open", "port")
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"

    def push(self, assignment: Assignment, *, uid: str | None = None, key: bytes = KEY) -> httpx.Response:
        body = assignment.model_copy(update={"pod_uid": uid or self.uid}).model_dump_json(by_alias=True)
        return httpx.put(self.admin_url + ADMIN_ASSIGNMENT_PATH, content=body, headers=self._headers(key), timeout=30)

    def report(self) -> Report:
        response = httpx.get(self.admin_url + ADMIN_REPORT_PATH, headers=self._headers(KEY), timeout=30)
        assert response.status_code == 200, response.text
        return Report.model_validate_json(response.content)

    def reports(self, holds: Callable[[Report], Any], within_s: float = WITHIN_S) -> Report:
        """The first report of which `holds` is true."""
        seen: list[Report] = []

        def probe() -> Report | None:
            seen[:] = [self.report()]
            return seen[0] if holds(seen[0]) else None

        try:
            return until(probe, "the report", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen}\n{self.tail()}") from None

    def serves(self, revision: str) -> Report:
        """Waits until a revision takes traffic."""
        return self.reports(lambda r: (found := r.revision(revision)) is not None and found.state == "Active")

    def mount(self, assignment: Assignment) -> None:
        """What the kubelet does when the ConfigMap changes: replaces the file."""
        write_mount(self.folder, assignment)

    def _fact(self, event: str, key: str) -> Any:
        return json.loads(self.says(f'"event":"{event}"'))[key]

    def _headers(self, key: bytes) -> dict[str, str]:
        return {"authorization": f"Bearer {admin_token(key, self.uid)}", "content-type": "application/json"}


def write_mount(folder: Path, assignment: Assignment) -> None:
    (folder / "mount").mkdir(exist_ok=True)
    temporary = folder / "mount" / ".new"
    temporary.write_text(assignment.model_dump_json(by_alias=True))
    temporary.replace(folder / "mount" / ASSIGNMENT_FILE)


@contextlib.contextmanager
def running_pod(folder: Path, prefix: Sequence[str] = (), **environment: str) -> Iterator[RunningPod]:
    pod = RunningPod(folder, prefix=prefix, **environment)
    try:
        yield pod
    except BaseException:
        print(pod.tail())
        raise
    finally:
        pod.stop()


@contextlib.contextmanager
def podium(*arguments: str, **environment: str) -> Iterator[Podium]:
    process = Podium(arguments, environment)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def served(folder: Path, yaml: str, *arguments: str, arena_mib: int = 16, **environment: str) -> Iterator[Server]:
    """All that the YAML names, from when it is ready."""
    file = folder / "served.yaml"
    file.write_text(yaml)
    settings = {"PODIUM_STATE_DIR": str(folder / "state"), "PODIUM_ARENA_BYTES": str(arena_mib << 20), **environment}
    server = Server(("serve", "-f", str(file), "--port", "0", *arguments), settings)
    try:
        until(lambda: httpx.get(server.url + "/v2/health/ready").status_code == 200, lambda: f"ready\n{server.tail()}")
        yield server
    finally:
        server.stop()


_cgroups = itertools.count()


@contextlib.contextmanager
def cgroup(limit_bytes: int) -> Iterator[tuple[str, ...]]:
    """A command that runs another one in a memory cgroup of its own; the test is skipped where none can be made."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line.split(":", 2)[2] for line in lines if ":memory:" in line), "/")
    v1, v2 = Path("/sys/fs/cgroup/memory") / path.lstrip("/"), Path("/sys/fs/cgroup")
    parent, setting = (v1, "memory.limit_in_bytes") if v1.exists() else (v2, "memory.max")
    folder = parent / f"podium-test-{os.getpid()}-{next(_cgroups)}"
    try:
        folder.mkdir()
        (folder / setting).write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield "sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder)
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), "the cgroup is empty")
        folder.rmdir()
