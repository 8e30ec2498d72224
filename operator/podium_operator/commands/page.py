"""`podium status NAME --page`: the live pages of a resource's pods, for a browser on this machine.

A browser cannot send a pod's admin token by itself, and should not know it: this process asks through the API server,
with the user's rights and the token, and answers on a free port of loopback, under a path that only who is told it
knows. Nothing but GETs of the page and its figures goes through.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from podium_crds.assignment import ResourceKind, ResourceRef
from podium_crds.keys import ADMIN_FIGURES_PATH, ADMIN_PAGE_PATH, ADMIN_PORT, HEADER_ADMIN_TOKEN
from podium_crds.token import admin_token
from podium_operator.commands.cluster import CommandError, Manifest
from podium_operator.kube.client import KubeClient
from podium_operator.kube.errors import KubeError, NotFound, Unauthorized
from podium_operator.kube.kinds import Ref
from podium_operator.resources import names
from podium_operator.resources.labels import stable_label
from podium_operator.resources.secret import CURRENT, PREVIOUS

HEADERS = {
    # Beside the page's own policy, which allows its own style and script alone: nothing reaches another site.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
STOP_S = 1.0


class Pages:
    """Answers for the pods of one resource."""

    def __init__(self, client: KubeClient, manifest: Manifest) -> None:
        self._client = client
        self._namespace = str(manifest["metadata"]["namespace"])
        kind = ResourceKind(manifest["kind"])
        self._resource = ResourceRef(kind=kind, namespace=self._namespace, name=manifest["metadata"]["name"])

    async def pods(self) -> dict[str, str]:
        """Names of the pods that run, and their UIDs."""
        label, value = stable_label(self._resource)
        pods = await self._client.list("Pod", self._namespace, label_selector=f"{label}={value}")
        running = [pod["metadata"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
        return {metadata["name"]: metadata["uid"] for metadata in running}

    async def from_pod(self, pod: str, path: str) -> dict[str, Any]:
        """What the admin port of a pod answers. Raises KubeError, CommandError where it is no pod of the resource."""
        uid = (await self.pods()).get(pod)
        if uid is None:
            raise CommandError(f"no pod {pod} of {self._resource.name} runs")
        refused: Unauthorized | None = None
        for key in await self._keys():
            try:
                headers = {HEADER_ADMIN_TOKEN: admin_token(key, uid)}
                return await self._client.from_pod(self._namespace, pod, ADMIN_PORT, path, headers)
            except Unauthorized as exc:  # a rotation has not reached this pod
                refused = exc
        raise refused or CommandError(f"the Secret {names.admin_key(self._resource.name)} holds no admin key")

    async def _keys(self) -> list[bytes]:
        secret = await self._client.get(Ref("Secret", self._namespace, names.admin_key(self._resource.name)))
        data = secret.get("data") or {}
        try:
            return [base64.b64decode(data[name], validate=True) for name in (CURRENT, PREVIOUS) if data.get(name)]
        except binascii.Error as exc:
            raise CommandError(f"the admin key is no base64: {exc}") from exc


@asynccontextmanager
async def paged(client: KubeClient, manifest: Manifest) -> AsyncIterator[dict[str, str]]:
    """Serves the pages until left; gives their addresses by pod. Raises CommandError where no pod runs, KubeError."""
    pages = Pages(client, manifest)
    pods = await pages.pods()
    if not pods:
        raise CommandError(f"no pod of {manifest['metadata']['name']} runs: podium status says why")
    for pod in pods:
        await pages.from_pod(pod, ADMIN_FIGURES_PATH)  # what keeps this user from it is said here, not in the browser
    key = secrets.token_urlsafe(18)
    runner = web.AppRunner(_application(pages, key), access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield {pod: f"http://127.0.0.1:{port}/{key}/{pod}/live" for pod in sorted(pods)}
    finally:
        await runner.cleanup()


def _application(pages: Pages, key: str) -> web.Application:
    async def answered(request: web.Request, path: str) -> dict[str, Any]:
        if not hmac.compare_digest(request.match_info["key"].encode(), key.encode()):
            raise web.HTTPNotFound
        try:
            return await pages.from_pod(request.match_info["pod"], path)
        except (CommandError, NotFound) as exc:
            raise web.HTTPNotFound(text=str(exc)) from exc
        except KubeError as exc:
            raise web.HTTPBadGateway(text=str(exc)) from exc

    async def page(request: web.Request) -> web.Response:
        html = (await answered(request, ADMIN_PAGE_PATH)).get("html")
        return web.Response(text=str(html), content_type="text/html", headers=HEADERS)

    async def figures(request: web.Request) -> web.Response:
        return web.json_response(await answered(request, ADMIN_FIGURES_PATH), headers=HEADERS)

    application = web.Application()
    application.router.add_get("/{key}/{pod}/live", page)
    application.router.add_get("/{key}/{pod}/live/figures", figures)
    return application
