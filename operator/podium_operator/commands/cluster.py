"""The API server as the user of a terminal reaches it, and the resource that a command is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podium_crds.keys import GROUP
from podium_operator.errors import OperatorError
from podium_operator.kube.client import KubeClient
from podium_operator.kube.config import Credentials
from podium_operator.kube.kinds import Ref
from podium_operator.kube.transport import Transport
from podium_operator.metrics import Metrics

Manifest = dict[str, Any]

KINDS = {
    **dict.fromkeys(("imdl", "inferencemodel", "inferencemodels", f"inferencemodels.{GROUP}"), "InferenceModel"),
    **dict.fromkeys(
        ("ipl", "inferencepipeline", "inferencepipelines", f"inferencepipelines.{GROUP}"), "InferencePipeline"
    ),
}


class CommandError(OperatorError):
    """A command cannot be done; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look."""

    kubeconfig: Path | None = None
    namespace: str | None = None
    """None: `default`; the kubeconfig's own choice is not read."""


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[KubeClient]:
    """A client with the user's own rights. Raises KubeError where there is no server to be had."""
    client = KubeClient(Transport(await Credentials.load(place.kubeconfig), Metrics()))
    try:
        yield client
    finally:
        await client.close()


async def found(client: KubeClient, place: Place, name: str) -> Manifest:
    """The resource called `name`, `imdl/name` or `ipl/name`. Raises CommandError."""
    namespace = place.namespace or "default"
    given, _, bare = name.rpartition("/")
    if given and given.lower() not in KINDS:
        raise CommandError(f"{given!r} is no kind of Podium: write imdl/{bare} or ipl/{bare}")
    kinds = [KINDS[given.lower()]] if given else ["InferenceModel", "InferencePipeline"]
    manifests = [await client.find(Ref(kind, namespace, bare)) for kind in kinds]
    live = [manifest for manifest in manifests if manifest is not None]
    if not live:
        raise CommandError(
            f"there is no {' or '.join(kinds)} {bare} in namespace {namespace}; another one: -n NAMESPACE"
        )
    if len(live) > 1:
        raise CommandError(f"{bare} is an InferenceModel and an InferencePipeline: write imdl/{bare} or ipl/{bare}")
    return live[0]


async def annotated(client: KubeClient, manifest: Manifest, words: dict[str, str | None]) -> None:
    """Set annotations of `podium.dev/`, None taking one away."""
    named = {f"{GROUP}/{word}": value for word, value in words.items()}
    await client.merge_patch(ref_of(manifest), {"metadata": {"annotations": named}}, resource_version=None)


def ref_of(manifest: Manifest) -> Ref:
    """The object's reference."""
    return Ref(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
