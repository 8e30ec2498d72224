"""`podium call`: one request from the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import typer

from podium.cli.waterfall import waterfall
from podium.client import Client, ClientError


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, and as whom."""

    url: str
    timeout_s: float
    api_key_file: Path | None = None
    """File that holds the API key alone; not an option of its own, since command lines are seen by others."""


def call_model(target: Target, model: str, inputs: list[str], version: str | None, *, explain: bool = False) -> int:
    """Prints the outputs as JSON. Exit status 1 where the answer is an error, 2 where the input cannot be read.

    `explain`: a waterfall of where the time went, on standard error.
    """

    def ask(client: Client, named: dict[str, Any]) -> None:
        answer = client.predict(model, named, version=version, explain=explain)
        typer.echo(orjson.dumps(answer.outputs, option=orjson.OPT_INDENT_2).decode())
        typer.echo(f"revision {answer.revision}", err=True)
        if explain:
            typer.echo(waterfall(answer.timing), err=True)

    return _status_of(target, inputs, ask)


def stream_model(target: Target, model: str, inputs: list[str], version: str | None) -> int:
    """Prints each chunk as one line of JSON as it comes. Exit status as of `call_model`."""

    def ask(client: Client, named: dict[str, Any]) -> None:
        for outputs in client.stream(model, named, version=version):
            typer.echo(orjson.dumps(outputs).decode())

    return _status_of(target, inputs, ask)


def _status_of(target: Target, inputs: list[str], ask: Callable[[Client, dict[str, Any]], None]) -> int:
    try:
        named = dict(_parse(item) for item in inputs)
        api_key = target.api_key_file.read_text().strip() if target.api_key_file else None
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    try:
        with Client(target.url, timeout_s=target.timeout_s, api_key=api_key) as client:
            ask(client, named)
    except ClientError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    return 0


def _parse(item: str) -> tuple[str, Any]:
    name, separator, text = item.partition("=")
    if not separator:
        raise ValueError(f"{item!r} is not name=JSON")
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    try:
        return name, orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{name}: {text[:80]!r} is not JSON ({error}); quote strings, as name='[\"text\"]'") from error
