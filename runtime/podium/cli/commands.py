"""The commands of `podium`. They import what they need when they run, so that `podium version` is quick."""

from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import typer

from podium.cli.plugins import WithPlugins
from podium.serving.workers.begun import BegunServer

app = typer.Typer(
    name="podium",
    cls=WithPlugins,
    help="Serve inference models and pipelines from the same YAML on a laptop and in a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Files = Annotated[
    list[Path],
    typer.Option("--file", "-f", help="YAML file of resources; give it again for more.", exists=True, dir_okay=False),
]


@app.command()
def serve(  # noqa: PLR0913, PLR0917 - a parameter for each option, as typer has it
    context: typer.Context,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="YAML file of resources; give it again for more.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of lines `name: key`; only requests with one are answered.", exists=True)
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Also answer gRPC on this port; 0 takes a free one.", min=0, max=65535)
    ] = None,
    pod: Annotated[bool, typer.Option("--pod", help="Run as a pod of a cluster: settings from PODIUM_*.")] = False,
) -> None:
    """Serve resources from files, hot-swapping when a file changes; or, with --pod, what the operator assigns."""
    from podium.cli.serve import Listening, serve_files, serve_in_pod

    if pod == bool(file):
        raise typer.BadParameter("give either -f FILE (once or more) or --pod")
    begun: list[BegunServer] = context.obj or []
    if pod:
        raise typer.Exit(serve_in_pod(begun))
    raise typer.Exit(serve_files(tuple(file or ()), Listening(host, port, grpc_port), api_key_file, begun))


@app.command()
def call(  # noqa: PLR0913, PLR0917 - a parameter for each option, as typer has it
    model: Annotated[str, typer.Argument(help="Name of the model or pipeline.")],
    inputs: Annotated[
        list[str], typer.Option("--input", "-i", help="name=JSON, such as text='[\"a\"]' or x=@file.json.")
    ],
    url: Annotated[str, typer.Option(help="Where it is served.")] = "http://127.0.0.1:8080",
    version: Annotated[str | None, typer.Option(help="Ask this version; otherwise traffic decides.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.001)] = 60.0,
    api_key_file: Annotated[Path | None, typer.Option(help="File with the API key, where one is asked for.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for chunks, and print each as it comes.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Also show where the time went, stage by stage.")] = False,
) -> None:
    """Send one request and print the answer."""
    from podium.cli.call import Target, call_model, stream_model

    if stream and explain:
        raise typer.BadParameter("give either --stream or --explain: a stream's time is told by its chunks")
    target = Target(url, timeout, api_key_file)
    if stream:
        raise typer.Exit(stream_model(target, model, inputs, version))
    raise typer.Exit(call_model(target, model, inputs, version, explain=explain))


@app.command()
def digest(path: Annotated[Path, typer.Argument(help="File or folder.", exists=True)]) -> None:
    """Print the digest of a file or folder, for source.digest."""
    from podium.artifacts import digest_of

    try:
        typer.echo(digest_of(path))
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def validate(
    file: Files,
    run: Annotated[bool, typer.Option("--run", help="Also load each model in a worker and try it.")] = False,
    repeat: Annotated[int, typer.Option(help="With --run: rounds in each third of the loop.", min=2, max=100_000)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Check files as the API server and the operator would; with --run also what the models do."""
    from podium.cli.validate import validate_files

    raise typer.Exit(validate_files(tuple(file), run=run, repeat=repeat, as_json=as_json))


@app.command()
def trace(
    target: Annotated[str, typer.Argument(help="module:function, found from the working directory.")],
    name: Annotated[str | None, typer.Option(help="Name of the pipeline; otherwise the function's.")] = None,
) -> None:
    """Print the InferencePipeline that a Python function was traced to."""
    from podium.cli.trace import print_trace

    raise typer.Exit(print_trace(target, name))


@app.command()
def graph(
    file: Files,
    output: Annotated[str, typer.Option("--output", "-o", help="text, mermaid or svg.")] = "text",
    name: Annotated[str | None, typer.Option(help="Which pipeline, where the files hold several.")] = None,
) -> None:
    """Draw the graph of a pipeline."""
    from podium.cli.graph import print_graph

    raise typer.Exit(print_graph(tuple(file), output, name))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(distribution_version("podium"))
