"""`podium-operator`: one operator process. Exit codes: 0 after a signal, 1 after a failure, 2 for wrong settings."""

import asyncio
import sys

from podium_operator import logs, settings
from podium_operator.errors import OperatorError
from podium_operator.logs import get_logger
from podium_operator.wiring import Operator

log = get_logger("podium_operator")


def main() -> None:
    """Run until SIGTERM or SIGINT. Kubernetes restarts what exits with a failure."""
    logs.configure("INFO")
    try:
        found = settings.load()
    except ValueError as exc:
        log.error("settings_refused", cause=str(exc))
        sys.exit(2)
    logs.configure(found.log_level)
    sys.exit(asyncio.run(_run(found)))


async def _run(found: settings.Settings) -> int:
    log.info("starting", namespaces=list(found.namespaces) or "all", workers=found.workers)
    try:
        await Operator(found).run()
    except OperatorError as exc:
        log.error("stopped_by_failure", cause=str(exc), failure=type(exc).__name__)
        return 1
    log.info("stopped")
    return 0


if __name__ == "__main__":
    main()
