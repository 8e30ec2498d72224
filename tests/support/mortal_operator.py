"""An operator that is killed right after its k-th write, to the API server or to a pod, before it learns the answer.

Each is a process of its own, forked from one that has imported everything, so that a life costs little. Renewals of
the Lease and Events are no part of a rollout and are not counted. A read changes nothing: to be killed after it is to
be killed after the write before it.
"""

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from podium_crds.assignment import Assignment
from podium_operator import logs
from podium_operator.kube.transport import Answer, Call, Transport
from podium_operator.logs import get_logger
from podium_operator.pods.client import AdminKeys, PodClient
from podium_operator.settings import Settings
from podium_operator.wiring import Operator

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])
_UNCOUNTED = ("/leases", "/events")
_WRITTEN = "written"

log = get_logger(__name__)


class MortalOperator:
    """Lives within the `async with` block, or until it has written so often."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path, *, dies_after: int | None = None) -> None:
        # All lives bear one name, so that the next takes the Lease at once, as the same pod's next container would not:
        # how long a Lease is waited for is another test's matter.
        settings = {
            "kubeconfig": kubeconfig,
            "namespaces": (namespace,),
            "lease_namespace": namespace,
            "lease_duration_seconds": 90,
            "lease_renew_seconds": 60,
            "identity": "mortal",
            "health_host": "127.0.0.1",
            "health_port": 0,
        }
        self._log = folder / f"operator-{os.urandom(4).hex()}.log"
        self._log.touch()
        self._process = _CONTEXT.Process(target=_live, args=(settings, dies_after, str(self._log)))

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._process.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        if exc is not None:
            print(self._log.read_text()[-6000:])  # pytest shows it where the test failed

    @property
    def killed(self) -> bool:
        """Whether its last write was made. Raises AssertionError where it ended otherwise."""
        code = self._process.exitcode
        assert code in (None, -signal.SIGKILL), f"the operator exited with {code}:\n{self._log.read_text()[-6000:]}"
        return code is not None

    @property
    def writes(self) -> list[str]:
        """What it has written, in order: `PATCH /api/v1/…`."""
        events = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [str(each["call"]) for each in events if each["event"] == _WRITTEN]


def _live(settings: Mapping[str, Any], dies_after: int | None, log_file: str) -> None:
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 2)
    logs.configure("INFO")
    _count(_killer(dies_after))
    asyncio.run(Operator(Settings(**settings)).run())


def _killer(dies_after: int | None) -> Callable[[str], None]:
    made = 0

    def wrote(call: str) -> None:
        nonlocal made
        made += 1
        log.info(_WRITTEN, call=call, number=made)
        if made == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    return wrote


def _count(wrote: Callable[[str], None]) -> None:
    """Have every write of this process told once it has been answered, and before its caller knows."""
    send, put_assignment = Transport.send, PodClient.put_assignment

    async def counted_send(self: Transport, call: Call, fence: Callable[[], None] | None = None) -> Answer:
        answer = await send(self, call, fence)
        if call.method != "GET" and call.verb != "DRY_RUN" and not any(part in call.path for part in _UNCOUNTED):
            wrote(f"{call.method} {call.path} {answer.status}")
        return answer

    async def counted_put(self: PodClient, pod_ip: str, pod_uid: str, assignment: Assignment, keys: AdminKeys) -> None:
        try:
            await put_assignment(self, pod_ip, pod_uid, assignment, keys)
        finally:
            wrote(f"PUT {pod_ip}")

    Transport.send = counted_send  # type: ignore[method-assign]
    PodClient.put_assignment = counted_put  # type: ignore[method-assign]
