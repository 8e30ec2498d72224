"""Asks Prometheus servers for one number. Only those that the operator was allowed to ask.

A user chooses the query and a server of the list, nothing else: no redirect is followed, and what any other address
would answer is never fetched. An answer is kept for a moment, and a server that fails is asked less and less often.
"""

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

from podium_operator.logs import get_logger
from podium_operator.outgoing import Outgoing, read_bounded
from podium_operator.state import Measurement

log = get_logger(__name__)

TIMEOUT_S = 3.0
"""Of one question as a whole: a pass waits for it."""
MAX_ANSWER_BYTES = 64 * 1024
FRESH_S = 10.0
"""An answer is not asked for again before."""
LONGEST_PAUSE_S = 300.0
"""Between two questions to a server that keeps failing."""
MAX_REMEMBERED = 1000
CONNECTIONS = 8
_CAUSE_CHARS = 200


@dataclass(slots=True)
class _Asked:
    answer: Measurement
    again_at: float
    failures: int


class _NoAnswerError(Exception):
    """The server did not answer the question; asking again later may help."""


class Prometheus(Outgoing):
    """Use as an async context manager, or close it. One event loop."""

    def __init__(self, addresses: Iterable[str], clock: Callable[[], float] | None = None) -> None:
        """`clock`: monotonic seconds; the event loop's where not given."""
        super().__init__(CONNECTIONS)
        self._addresses = frozenset(address.rstrip("/") for address in addresses)
        self._clock = clock
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    async def measure(self, address: str, query: str) -> Measurement:
        """The number, or why there is none. Never raises; takes TIMEOUT_S at most."""
        address = address.rstrip("/")
        if address not in self._addresses:
            return Measurement(
                problem=f"the operator may not ask {address}: add it to the Helm value operator.prometheusAddresses"
            )
        now = self._now()
        known = self._asked.get((address, query))
        if known is not None and now < known.again_at:
            return known.answer
        failures = known.failures if known is not None else 0
        try:
            answer, failures = await self._ask(address, query), 0
        except _NoAnswerError as exc:
            answer, failures = Measurement(problem=f"{address}: {exc}"), failures + 1
            log.warning("prometheus_not_asked", address=address, cause=str(exc), failures=failures)
        pause = min(LONGEST_PAUSE_S, FRESH_S * 2 ** max(0, failures - 1))
        self._asked[address, query] = _Asked(answer, self._now() + pause, failures)
        self._asked.move_to_end((address, query))
        if len(self._asked) > MAX_REMEMBERED:
            self._asked.popitem(last=False)
        return answer

    async def _ask(self, address: str, query: str) -> Measurement:
        form = {"query": query, "timeout": f"{TIMEOUT_S:g}s"}
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._opened().post(f"{address}/api/v1/query", data=form, allow_redirects=False) as response,
            ):
                raw = await read_bounded(response, MAX_ANSWER_BYTES)
        except TimeoutError as exc:
            raise _NoAnswerError(f"no answer within {TIMEOUT_S:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _NoAnswerError(str(exc)[:_CAUSE_CHARS] or type(exc).__name__) from exc
        if raw is None:
            raise _NoAnswerError(f"its answer is larger than {MAX_ANSWER_BYTES} bytes; let the query give one number")
        return _read(response.status, raw)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()


def _read(status: int, raw: bytes) -> Measurement:
    """What the HTTP API says (https://prometheus.io/docs/prometheus/latest/querying/api)."""
    try:
        body: Any = json.loads(raw)
    except ValueError as exc:
        raise _NoAnswerError(f"status {status}, and not the JSON of Prometheus") from exc
    if not isinstance(body, dict) or body.get("status") != "success":
        said = str(body.get("error", ""))[:_CAUSE_CHARS] if isinstance(body, dict) else ""
        raise _NoAnswerError(f"status {status}: {said or 'no error is named'}")
    data = body.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if kind == "vector" and isinstance(result, list):
        if not result:
            return Measurement(problem="the query gives no data yet")
        if len(result) > 1:
            return Measurement(problem=f"the query gives {len(result)} series, expected one number")
        result = result[0].get("value") if isinstance(result[0], dict) else None
    elif kind != "scalar":
        return Measurement(problem=f"the query gives a {str(kind)[:20]}, expected a scalar or a vector of one series")
    try:
        _, text = result  # type: ignore[misc]
        value = float(text)
    except (TypeError, ValueError) as exc:
        raise _NoAnswerError("its answer has no value where Prometheus puts one") from exc
    if math.isnan(value):
        return Measurement(problem="the query gives NaN, such as a ratio of nothing")
    return Measurement(value=value)
