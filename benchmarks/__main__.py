"""`python -m benchmarks [NAME …] [--quick]`: run those benchmarks, or all of them, and write their result files."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from benchmarks import batching, coldstart, echo, footprint, inline, ipc, pipelines, tensor
from benchmarks.result import FULL, QUICK, Effort, Result

BENCHMARKS: dict[str, Callable[[Effort], Result]] = {
    "batching": batching.run,
    "coldstart": lambda _: coldstart.run(),
    "echo": echo.run,
    "footprint": lambda _: footprint.run(),
    "inline": inline.run,
    "ipc": ipc.run,
    "pipelines": pipelines.run,
    "tensor": tensor.run,
}


def main(arguments: list[str]) -> int:
    """Exit status 0 whether bars are met or not; 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(sorted(BENCHMARKS))}; none: all")
    parser.add_argument("--quick", action="store_true", help="few short rounds, nothing written: for orientation")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(sorted(BENCHMARKS))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server that was started is ended
    effort = QUICK if given.quick else FULL
    for name in given.names or sorted(BENCHMARKS):
        sys.stdout.write(f"{name}, load average {os.getloadavg()[0]:.1f}\n")
        sys.stdout.flush()
        result = BENCHMARKS[name](effort)
        result.show()
        if not effort.quick:
            sys.stdout.write(f"  written to {result.write().name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
