"""From SIGTERM to the last byte.

1. SIGTERM: readiness stays 200 and answers stay as they are while the endpoints are taken away (propagationSeconds).
2. Then readiness fails, and every answer carries `Connection: close`, also on connections that come in only now. A
   connection of gRPC is told to go away at its age (grpc_oip/connections.py), and is waited for until then.
3. Once nothing is in flight and nobody has asked for a moment, or drainTimeoutSeconds after (1) ended, the listeners
   close, idle connections last, and the workers stop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from podium.telemetry.logging import get_logger
from podium_crds.assignment import DrainPolicy

log = get_logger(__name__)

QUIET_S = 1.0
"""No request for so long, after readiness failed: whoever keeps connections open has nothing to send."""
SETTLE_S = 10.0
"""After so long nothing in flight is enough: a client that knows this pod alone would never let it be quiet. Where
gRPC is served it is at least the age of a connection: until then its client has not been told to go elsewhere."""
TICK_S = 0.05


@dataclass(slots=True)
class DrainState:
    """Where the drain stands, and how much is still being answered."""

    has_begun: bool = False
    """SIGTERM has come."""
    is_closing: bool = False
    """Propagation is over: answers carry `Connection: close`."""
    in_flight: int = 0
    """Requests being answered now, of every route but health and metrics."""
    last_request: float = 0.0
    """When the last one was admitted, monotonic seconds."""

    def enter(self, now: float) -> None:
        """A request came in."""
        self.in_flight += 1
        self.last_request = now

    def leave(self) -> None:
        """Its answer is complete."""
        self.in_flight -= 1


async def drain(state: DrainState, policy: DrainPolicy, clock: Callable[[], float], settle_s: float = SETTLE_S) -> bool:
    """Steps 1 to 3 up to the point where listeners may close. False: the time ran out with requests in flight.

    `settle_s`: how long, after (2) began, a client may go on over a connection that it has.
    """
    state.has_begun = True
    log.info("drain_begun", in_flight=state.in_flight, propagation_s=policy.propagation_seconds)
    await asyncio.sleep(policy.propagation_seconds)
    state.is_closing = True
    log.info("drain_closing", in_flight=state.in_flight)
    closing_since = clock()
    limit = closing_since + policy.drain_timeout_seconds
    while clock() < limit and (state.in_flight or not _is_quiet(state, closing_since, settle_s, clock())):  # noqa: ASYNC110 - bounded
        await asyncio.sleep(TICK_S)
    log.info("drain_ended", in_flight=state.in_flight, waited_s=round(clock() - closing_since, 3))
    return state.in_flight == 0


def _is_quiet(state: DrainState, closing_since: float, settle_s: float, now: float) -> bool:
    return now >= max(state.last_request, closing_since) + QUIET_S or now >= closing_since + settle_s
