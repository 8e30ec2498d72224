"""Command line: `python -m demo up|down`. Exit code 1 and a message where it cannot be done."""

import sys

from e2e.clusters.base import ClusterError

from demo.down import down
from demo.errors import DemoError
from demo.up import up

_COMMANDS = {"up": up, "down": down}


def main(arguments: list[str]) -> int:
    """Carries out one command."""
    if len(arguments) != 1 or arguments[0] not in _COMMANDS:
        sys.stderr.write(f"usage: python -m demo {'|'.join(_COMMANDS)}\n")
        return 2
    try:
        _COMMANDS[arguments[0]]()
    except (DemoError, ClusterError) as error:
        sys.stderr.write(
            f"\nThe demo stops here: {error}\n\n"
            "Without a cluster the same resources run on this machine:\n"
            "  .venv/bin/python examples/minilm/prepare.py && .venv/bin/podium serve -f .podium/minilm/minilm.yaml\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. What is there stays, and make demo goes on from it.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
