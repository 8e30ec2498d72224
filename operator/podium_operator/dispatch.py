"""From a key of the work queue to the reconciler of its kind: bounded in time, counted, failures logged once."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from podium_operator.errors import LeaseLost, OperatorError
from podium_operator.logs import get_logger
from podium_operator.metrics import Metrics
from podium_operator.state import Result
from podium_operator.workqueue import Key

log = get_logger(__name__)


class Reconciler(Protocol):
    """One kind's reconciler."""

    async def reconcile(self, key: Key) -> Result:
        """Bring the resource one step nearer to its spec. Raises where the pass should be tried again."""


class Dispatch:
    """Handles keys for the workers. Raises what the reconciler raised; the queue decides when to try again."""

    def __init__(self, reconcilers: Mapping[str, Reconciler], metrics: Metrics, *, pass_timeout_s: float) -> None:
        """`reconcilers` by kind."""
        self._reconcilers = reconcilers
        self._metrics = metrics
        self._pass_timeout_s = pass_timeout_s

    async def __call__(self, key: Key) -> float | None:
        """One pass over one resource; returns when to come back, in seconds."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "error"
        self._metrics.reconcile_started(key.kind)
        try:
            async with asyncio.timeout(self._pass_timeout_s):
                result = await self._reconcilers[key.kind].reconcile(key)
            outcome = "success" if result.requeue_after_s is None else "requeue_after"
        except LeaseLost:
            raise  # the process is about to say so, once
        except (OperatorError, TimeoutError) as exc:
            outcome = "timeout" if isinstance(exc, TimeoutError) else "error"
            log.warning("reconcile_failed", **key._asdict(), cause=str(exc) or type(exc).__name__)
            raise
        except Exception as exc:
            log.error("reconcile_broken", error=exc, **key._asdict())
            raise
        finally:
            self._metrics.reconcile_ended(key.kind, outcome, loop.time() - started)
        return result.requeue_after_s
