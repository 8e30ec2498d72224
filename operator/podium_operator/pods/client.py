"""`PodClient`: hands pods their assignment and reads their report, as the admin token of each pod allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from pydantic import ValidationError

from podium_crds.assignment import MAX_ASSIGNMENT_BYTES, Assignment, Report
from podium_crds.keys import ADMIN_ASSIGNMENT_PATH, ADMIN_PORT, ADMIN_REPORT_PATH
from podium_crds.token import admin_token
from podium_operator.metrics import Metrics
from podium_operator.outgoing import Outgoing, read_bounded
from podium_operator.pods.errors import Refused, Unreachable

MAX_REPORT_BYTES = 1024 * 1024
_MESSAGE_CHARS = 512


@dataclass(frozen=True, slots=True)
class AdminKeys:
    """The keys that pods may hold: the Secret's `current` and, while a rotation spreads, `previous`."""

    current: bytes
    previous: bytes | None = None


class PodClient(Outgoing):
    """Plain HTTP inside the cluster; the token is per pod. Use as an async context manager, or close it."""

    def __init__(
        self, metrics: Metrics, *, port: int = ADMIN_PORT, timeout_s: float = 2.0, concurrency: int = 64
    ) -> None:
        """`timeout_s` bounds one call as a whole."""
        super().__init__(concurrency)
        self._metrics = metrics
        self._port = port
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def put_assignment(self, pod_ip: str, pod_uid: str, assignment: Assignment, keys: AdminKeys) -> None:
        """Push to one pod, naming its UID. Raises Unreachable, or Refused with the pod's own message.

        Returning means accepted and durable in the pod, not loaded: the report tells that.
        """
        named = assignment.model_copy(update={"pod_uid": pod_uid})
        body = orjson.dumps(named.wire())
        if len(body) > MAX_ASSIGNMENT_BYTES:
            raise Refused(413, f"assignment has {len(body)} bytes, at most {MAX_ASSIGNMENT_BYTES} are allowed")
        await self._call("PUT", ADMIN_ASSIGNMENT_PATH, pod_ip, pod_uid, keys, body)

    async def get_report(self, pod_ip: str, pod_uid: str, keys: AdminKeys) -> Report:
        """What the pod says it holds. Raises Unreachable or Refused, the latter also where another pod answers."""
        raw = await self._call("GET", ADMIN_REPORT_PATH, pod_ip, pod_uid, keys, None)
        try:
            report = Report.model_validate_json(raw)
        except ValidationError as exc:
            raise Refused(200, f"report is not readable: {exc.error_count()} errors, first {exc.errors()[0]}") from exc
        if report.pod_uid != pod_uid:
            raise Refused(409, f"pod {report.pod_uid} answers at {pod_ip}, expected {pod_uid}")
        return report

    async def _call(
        self, method: str, path: str, pod_ip: str, pod_uid: str, keys: AdminKeys, body: bytes | None
    ) -> bytes:
        host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
        url = f"http://{host}:{self._port}{path}"
        status, answer = 401, b""
        for key in (keys.current, keys.previous):
            if key is None:
                continue
            status, answer = await self._once(method, url, admin_token(key, pod_uid), body)
            if status != 401:
                break
        if status >= 300:
            self._metrics.pod_request(method, "refused")
            raise Refused(status, _message(answer))
        self._metrics.pod_request(method, "ok")
        return answer

    async def _once(self, method: str, url: str, token: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with self._opened().request(
                method, url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                answer = await read_bounded(response, MAX_REPORT_BYTES)
                if answer is None:
                    raise Refused(response.status, f"answer is larger than {MAX_REPORT_BYTES} bytes")
                return response.status, answer
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            self._metrics.pod_request(method, "unreachable")
            raise Unreachable(f"{method} {url}: {exc or type(exc).__name__}") from exc


def _message(answer: bytes) -> str:
    """The pod's own words: `{"error": …}` or plain text."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return answer[:_MESSAGE_CHARS].decode(errors="replace")
    if isinstance(body, Mapping):
        found: Any = body.get("error", body.get("detail", body))
        if isinstance(found, Mapping):
            found = found.get("message", found)
        return str(found)[:_MESSAGE_CHARS]
    return str(body)[:_MESSAGE_CHARS]
