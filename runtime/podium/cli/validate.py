"""`podium validate`: parse, check the graph, compile; nothing is fetched or started."""

from pathlib import Path

import typer

from podium.cli.local_files import compile_texts, explain, read_texts
from podium_crds.errors import CrdsError


def validate_files(paths: tuple[Path, ...]) -> int:
    """Exit status: 0 where everything is right, 1 with every problem printed."""
    try:
        spec = compile_texts(read_texts(paths))
        spec.assignments(0)
    except CrdsError as error:
        for line in explain(error):
            typer.echo(f"error: {line}", err=True)
        return 1
    for record in spec.records:
        resource = record.resource
        typer.echo(f"ok: {resource.kind.value} {resource.name} version {record.version} → revision {record.name}")
    return 0
