"""Commands that other packages bring to `podium`, found by the entry points of the group `podium.commands`.

Loaded only when one is called or help is asked for: what they need may not be installed, and takes its time to import.
Typer carries a click of its own whose types it does not export, hence `Any`.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

GROUP = "podium.commands"


class WithPlugins(TyperGroup):
    """The group of built-in commands, and after them those of other packages."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A built-in command, else one of a package; None where nobody has it."""
        return super().get_command(ctx, cmd_name) or _brought(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Built-in ones first."""
        return [*super().list_commands(ctx), *sorted(point.name for point in entry_points(group=GROUP))]


def _brought(name: str) -> Any:
    for point in entry_points(group=GROUP, name=name):
        return _loaded(point)
    return None


def _loaded(point: EntryPoint) -> Any:
    try:
        group = typer.main.get_command(point.load())
    except ImportError as error:
        return _unavailable(point.name, error.name or str(error))
    assert isinstance(group, TyperGroup), "an entry point names a typer.Typer with several commands"
    return group.commands[point.name]


def _unavailable(name: str, missing: str) -> Any:
    """A command that says what to install: help lists it, and calling it fails."""
    needs = f"podium {name} talks to a cluster and needs {missing}: pip install 'podium[operator]'"
    stub = typer.Typer(add_completion=False)

    @stub.command(name, help=needs, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def refuse() -> None:
        typer.echo(f"error: {needs}", err=True)
        raise typer.Exit(1)

    return typer.main.get_command(stub)
