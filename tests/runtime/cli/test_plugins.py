"""Commands that other packages bring to the command line."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest
from typer.testing import CliRunner

from podium.cli import plugins
from podium.cli.commands import app


def brings(monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    points = [EntryPoint(name, target, plugins.GROUP) for name, target in commands.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: EntryPoints(points).select(**chosen))


def test_help_lists_what_packages_bring_after_the_built_in_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    brings(monkeypatch, status="podium_operator.commands.app:app")
    printed = CliRunner().invoke(app, ["--help"]).output
    assert printed.index("serve") < printed.index("status")
    assert "Show where resources and their rollouts stand" in " ".join(printed.split())


def test_a_package_whose_libraries_are_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    brings(monkeypatch, status="no_such_library.commands:app")
    result = CliRunner().invoke(app, ["status", "name", "--watch"])
    assert result.exit_code == 1
    assert "pip install 'podium[operator]'" in result.output
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_a_command_that_nobody_brings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    brings(monkeypatch)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 2
    assert "No such command 'status'" in result.output
