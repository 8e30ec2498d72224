"""`podium validate`: parse, check the graph, compile; with `--run` also load each model and try it."""

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

import typer

from podium.cli.local_files import LocalSpec, compile_texts, explain, read_texts
from podium_crds.assignment import Member
from podium_crds.compile import compile_revision
from podium_crds.errors import CrdsError


def validate_files(paths: tuple[Path, ...], *, run: bool, repeat: int, as_json: bool) -> int:
    """Exit status: 0 where everything is right, 1 with every problem printed."""
    try:
        spec = compile_texts(read_texts(paths))
        spec.assignments(0)
    except CrdsError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "errors": explain(error), "models": []}))
        for line in () if as_json else explain(error):
            typer.echo(f"error: {line}", err=True)
        return 1
    if not as_json:
        _tell_revisions(spec)
    if run:
        return _run(_members(spec), repeat, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "errors": [], "models": []}))
    return 0


def _tell_revisions(spec: LocalSpec) -> None:
    for record in spec.records:
        resource = record.resource
        typer.echo(f"ok: {resource.kind.value} {resource.name} version {record.version} → revision {record.name}")


def _members(spec: LocalSpec) -> list[Member]:
    """Every model of the files once, whichever resources it is a member of."""
    compiled = [compile_revision(record) for record in spec.records]
    loaded = [member for revision in compiled for member in revision.members if member.remote is None]
    return list({member.load_hash: member for member in loaded}.values())


def _run(members: list[Member], repeat: int, *, as_json: bool) -> int:
    from podium.cli.dry_run import dry_run, told
    from podium.cli.serve import state_dir
    from podium.telemetry.logging import configure

    configure(os.environ.get("PODIUM_LOG_LEVEL", "CRITICAL"), as_json=as_json)
    try:
        verdicts = asyncio.run(dry_run(members, state_dir(), repeat))
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    ok = not any(verdict.findings for verdict in verdicts)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "errors": [], "models": [asdict(verdict) for verdict in verdicts]}))
    else:
        for verdict in verdicts:
            told(verdict, typer.echo)
        typer.echo("every model does what its resource says" if ok else "see what to change above")
    return 0 if ok else 1
