"""One HTTP call to the API server: limits, timeouts, retries. Knows URLs and statuses, nothing of objects.

TLS, proxies and connection reuse are `kubernetes.aio`'s; how long a call may take and what is sent again is ours.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio.client.rest import RESTClientObject

from podium_crds.keys import FIELD_MANAGER
from podium_operator.kube.config import Credentials
from podium_operator.kube.errors import BadAnswer, Unavailable
from podium_operator.metrics import Metrics

Body = dict[str, Any]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_AGAIN = frozenset({429, 502, 503, 504})
_NOT_DONE = frozenset({429, 503})
"""Statuses that the server sends before it does anything: safe to repeat for any call."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the client is. Seconds."""

    connect_s: float = 5.0
    total_s: float = 15.0
    """One attempt, body included."""
    attempts: int = 5
    backoff_s: float = 0.1
    """Before the second attempt; doubles, with full jitter."""
    max_backoff_s: float = 5.0
    """Caps the server's Retry-After too."""
    concurrency: int = 32


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `verb` names it in metrics."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    verb: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside those that every call has."""
    idempotent: bool = True
    """False: not sent again where the server may have acted on it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status below 500, or the last one after the retries, and its JSON object."""

    status: int
    body: Body
    retry_after_s: float | None = None


class Transport:
    """Sends calls. Borrowed by one client, which closes it."""

    def __init__(self, credentials: Credentials, metrics: Metrics, limits: Limits | None = None) -> None:
        self._credentials = credentials
        self._metrics = metrics
        self._limits = limits or Limits()
        self._rest: Any = RESTClientObject(credentials.configuration)
        self._slots = asyncio.Semaphore(self._limits.concurrency)

    async def send(self, call: Call, fence: Callable[[], None] | None = None) -> Answer:
        """The server's answer, whatever its status. Raises Unavailable where none came, BadAnswer for garbage.

        `fence` runs before each attempt, once a slot is free, and may raise to keep it from being sent.
        """
        for attempt in range(1, self._limits.attempts + 1):
            last = attempt == self._limits.attempts
            pause: float | None = None
            try:
                async with self._slots:
                    if fence is not None:
                        fence()
                    answer = await self._attempt(call)
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                self._metrics.api_request(call.verb or call.method, "error")
                if last or not (call.idempotent or isinstance(exc, aiohttp.ClientConnectorError)):
                    raise Unavailable(f"{call.method} {call.path}: {exc or type(exc).__name__}") from exc
            else:
                self._metrics.api_request(call.verb or call.method, str(answer.status))
                repeatable = _AGAIN if call.idempotent else _NOT_DONE
                if last or answer.status not in repeatable:
                    return answer
                pause = answer.retry_after_s
            await asyncio.sleep(self._pause(attempt, pause))
        raise AssertionError("unreachable")

    async def reload_credentials(self) -> None:
        """Read token and kubeconfig again, as after a 401."""
        await self._credentials.reload()

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _attempt(self, call: Call) -> Answer:
        headers = {
            "Content-Type": call.content_type,
            "Accept": "application/json",
            "User-Agent": FIELD_MANAGER,
            **call.headers,
        }
        authorization = await self._credentials.authorization()
        if authorization:
            headers["Authorization"] = authorization
        url = f"{self._credentials.server}{call.path}"
        if call.query:
            url = f"{url}?{urlencode(call.query)}"
        timeout = aiohttp.ClientTimeout(total=self._limits.total_s, connect=None, sock_connect=self._limits.connect_s)
        answer = await self._rest.request(call.method, url, headers=headers, body=call.body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        async with response:
            raw = await _bounded(response)
            return Answer(response.status, _parsed(raw, response.status), _retry_after(response))

    def _pause(self, attempt: int, asked: float | None) -> float:
        jittered = random.uniform(0, self._limits.backoff_s * 2 ** (attempt - 1))  # noqa: S311 - spreads load, guards nothing
        return min(self._limits.max_backoff_s, max(asked or 0.0, jittered))


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    async for piece in response.content.iter_any():
        pieces += piece
        if len(pieces) > MAX_ANSWER_BYTES:
            raise BadAnswer(f"answer of {response.url.path} is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(pieces)


def _parsed(raw: bytes, status: int) -> Body:
    try:
        body = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError as exc:
        # Proxies and an API server that starts up answer errors in plain text.
        if status >= 400:
            return {"message": raw[:512].decode(errors="replace").strip()}
        raise BadAnswer(f"answer is no JSON: {raw[:80]!r}", status=status) from exc
    if not isinstance(body, dict):
        raise BadAnswer(f"answer is no JSON object but {type(body).__name__}", status=status)
    return body


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
