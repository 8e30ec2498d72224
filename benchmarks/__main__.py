"""`python -m benchmarks [NAME …]`: run those benchmarks, or all of them, and write their result files."""

import sys
from collections.abc import Callable

from benchmarks import coldstart, footprint
from benchmarks.result import Result

BENCHMARKS: dict[str, Callable[[], Result]] = {"coldstart": coldstart.run, "footprint": footprint.run}


def main(names: list[str]) -> int:
    """Exit status 0 whether bars are met or not; 2 for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are: {', '.join(sorted(BENCHMARKS))}\n")
        return 2
    for name in names or sorted(BENCHMARKS):
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        result = BENCHMARKS[name]()
        result.show()
        sys.stdout.write(f"  written to {result.write().name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
