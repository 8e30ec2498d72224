"""`podium`: the command line. Begins what takes longest before it imports the commands (cli/commands.py)."""

import os
import sys

from podium.cli import early


def app() -> None:
    """The entry point. Ends the process."""
    begun = early.begin(sys.argv[2:], os.environ) if sys.argv[1:2] == ["serve"] and "--help" not in sys.argv else []
    from podium.cli.commands import app as commands

    commands(obj=begun)
