"""The commands, as typer reads them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console, Group
from rich.live import Live

from podium_crds.keys import GROUP
from podium_crds.status import ServingStatus
from podium_operator.commands.cluster import (
    CommandError,
    Manifest,
    Place,
    annotated,
    connected,
    found,
    ref_of,
)
from podium_operator.commands.page import paged
from podium_operator.commands.planning import planned, told
from podium_operator.commands.table import described
from podium_operator.errors import OperatorError
from podium_operator.kube.client import KubeClient
from podium_operator.reconcile.reporting import read_status
from podium_operator.resources.labels import SERVED_AT

app = typer.Typer(add_completion=False)

WATCH_S = 1.0

Name = Annotated[
    str, typer.Argument(help="The resource: its name, or imdl/NAME or ipl/NAME where both kinds have one.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; default: default.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig; default: $KUBECONFIG, else ~/.kube/config.")]

Act = Callable[[KubeClient, Manifest], Awaitable[str]]


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One resource; default: all of the namespace.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until interrupted, a look a second.")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Serve the live pages of its pods to a browser of this machine.")
    ] = False,
) -> None:
    """Show where resources and their rollouts stand: conditions, revisions, shares, and why."""
    place = Place(kubeconfig, namespace)
    if page and (name is None or watch):
        raise typer.BadParameter("--page is for one resource: podium status NAME --page, without --watch")

    async def show() -> None:
        async with connected(place) as client:
            if page and name is not None:
                await _serve_pages(client, place, name)
            if not watch:
                Console().print(await _seen(client, place, name))
                return
            with Live(await _seen(client, place, name), refresh_per_second=2) as live:
                while True:
                    await asyncio.sleep(WATCH_S)
                    live.update(await _seen(client, place, name))

    _run(show())


@app.command()
def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML file of resources.", exists=True, dir_okay=False)],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what applying a file would do: which way, what changes, what it needs. Nothing is written."""

    async def show() -> None:
        async with connected(Place(kubeconfig, namespace)) as client:
            for manifest in _resources(file, namespace):
                typer.echo(told(await planned(client, manifest, datetime.now(UTC))))

    _run(show())


@app.command()
def promote(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    full: Annotated[bool, typer.Option("--full", help="Go on to all requests, not just past this step.")] = False,
) -> None:
    """Let a rollout in steps go on past the step at which it waits."""

    async def act(client: KubeClient, manifest: Manifest) -> str:
        status = read_status(manifest)
        target = _target(manifest, status)
        if status.canary is None and not full:
            raise CommandError(f"{manifest['metadata']['name']} is at no step; podium status shows where it stands")
        step = "" if full or status.canary is None else f"/{status.canary.step}"
        await annotated(
            client, manifest, {"promote": target + step, "abort": None, "rollback": None, "rollback-to": None}
        )
        return f"{target} goes on to all requests" if not step else f"{target} goes on past step {step[1:]}"

    _act(Place(kubeconfig, namespace), name, act)


@app.command()
def abort(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None) -> None:
    """Give up the rollout in progress: what served before gets all requests. Nothing, where none is in progress."""

    async def act(client: KubeClient, manifest: Manifest) -> str:
        status = read_status(manifest)
        target = _target(manifest, status)
        if status.current_revision in (None, target):
            return f"nothing is in progress: {target} serves"
        await annotated(client, manifest, {"abort": target, "promote": None})
        return f"{target} is given up, {status.current_revision} gets all requests"

    _act(Place(kubeconfig, namespace), name, act)


@app.command()
def rollback(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    to: Annotated[str | None, typer.Option(help="The revision to serve; default: the one before.")] = None,
) -> None:
    """Serve the revision before, or another one that is kept, although the spec asks for this one."""

    async def act(client: KubeClient, manifest: Manifest) -> str:
        status = read_status(manifest)
        target, records = _target(manifest, status), await _kept(client, manifest)
        kept = [each["metadata"]["name"] for each in records]
        if to is not None and to not in kept:
            raise CommandError(f"no revision {to} is kept of {ref_of(manifest)}; kept: {', '.join(kept) or 'none'}")
        if not set(kept) - {target}:
            raise CommandError(f"{target} is the only revision of {ref_of(manifest)}: there is nothing to go back to")
        others = [each for each in records if each["metadata"]["name"] != target]
        if to is None and not any(_has_served(each, status) for each in others):
            names = ", ".join(each["metadata"]["name"] for each in others) or "none"
            raise CommandError(
                f"no other revision of {ref_of(manifest)} is known to have served: name one with --to ({names})"
            )
        await annotated(client, manifest, {"rollback": target, "rollback-to": to, "promote": None})
        return f"{target} is rolled back to {to or 'the revision before'}; podium promote --full {name} serves it again"

    _act(Place(kubeconfig, namespace), name, act)


@app.command()
def pause(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None) -> None:
    """Halt the rollout where it is; changes are planned into status but not acted on."""
    _act(Place(kubeconfig, namespace), name, lambda client, manifest: _paused(client, manifest, True))


@app.command()
def resume(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None) -> None:
    """Let a paused rollout go on."""
    _act(Place(kubeconfig, namespace), name, lambda client, manifest: _paused(client, manifest, False))


async def _paused(client: KubeClient, manifest: Manifest, paused: bool) -> str:
    await client.merge_patch(ref_of(manifest), {"spec": {"rollout": {"paused": paused}}}, resource_version=None)
    return f"{ref_of(manifest)} {'is paused' if paused else 'goes on'}"


def _resources(file: Path, namespace: str | None) -> list[Manifest]:
    """The resources of Podium in a file. Raises CommandError where there are none, or it is no YAML."""
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is no YAML: {error}") from error
    found: list[Manifest] = [
        each for each in documents if isinstance(each, dict) and str(each.get("apiVersion", "")).startswith(f"{GROUP}/")
    ]
    if not found:
        raise CommandError(f"{file} has no resource of {GROUP}")
    for manifest in found:
        if namespace is not None:
            manifest.setdefault("metadata", {}).setdefault("namespace", namespace)
    return found


async def _seen(client: KubeClient, place: Place, name: str | None) -> Group:
    now = datetime.now(UTC)
    if name is not None:
        return described(await found(client, place, name), now)
    namespace = place.namespace or "default"
    manifests = [
        manifest for kind in ("InferenceModel", "InferencePipeline") for manifest in await client.list(kind, namespace)
    ]
    if not manifests:
        raise CommandError(f"there is no InferenceModel or InferencePipeline in namespace {namespace}")
    return Group(*(described(manifest, now) for manifest in manifests))


async def _serve_pages(client: KubeClient, place: Place, name: str) -> None:
    """Until interrupted."""
    async with paged(client, await found(client, place, name)) as addresses:
        for pod, address in addresses.items():
            typer.echo(f"{pod}  {address}")
        typer.echo("for this machine, and whoever has the addresses (Ctrl-C ends it)")
        await asyncio.Event().wait()


async def _kept(client: KubeClient, manifest: Manifest) -> list[Manifest]:
    """The resource's ControllerRevisions, newest first."""
    namespace, uid = manifest["metadata"]["namespace"], manifest["metadata"]["uid"]
    revisions = [
        each
        for each in await client.list("ControllerRevision", namespace)
        if any(owner.get("uid") == uid for owner in each["metadata"].get("ownerReferences") or ())
    ]
    return sorted(revisions, key=lambda each: -int(each.get("revision", 0)))


def _has_served(record: Manifest, status: ServingStatus) -> bool:
    """Whether the operator goes back to it by itself."""
    is_current = record["metadata"]["name"] == status.current_revision
    return is_current or SERVED_AT in (record["metadata"].get("annotations") or {})


def _target(manifest: Manifest, status: ServingStatus) -> str:
    if status.update_revision is None:
        raise CommandError(f"the operator has not looked at {ref_of(manifest)} yet; is it running?")
    return status.update_revision


def _act(place: Place, name: str, act: Act) -> None:
    async def run() -> None:
        async with connected(place) as client:
            typer.echo(await act(client, await found(client, place, name)))

    _run(run())


def _run(command: Awaitable[None]) -> None:
    async def run() -> None:
        await command

    try:
        asyncio.run(run())
    except OperatorError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
