"""The HTTP session that the watch runtime uses: same server, same user, and each request's outcome told to us."""

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

from podium_crds.keys import FIELD_MANAGER
from podium_operator.kube.config import Credentials


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A list or watch that the server has answered, or that begins."""

    path: str
    watch: bool
    status: int | None
    """None: it begins."""


def watch_session(credentials: Credentials, tell: Callable[[ReadRequest], None]) -> aiohttp.ClientSession:
    """A session whose every request carries the current token. The caller owns it; connections are not limited.

    `tell` is called as each request begins and as its headers have come.
    """

    async def authorized(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        authorization = await credentials.authorization()
        if authorization:
            request.headers["Authorization"] = authorization
        return await send(request)

    async def begins(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        tell(ReadRequest(params.url.path, params.url.query.get("watch") == "true", None))

    async def answered(_: object, __: object, params: aiohttp.TraceRequestEndParams) -> None:
        tell(ReadRequest(params.url.path, params.url.query.get("watch") == "true", params.response.status))

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begins)
    trace.on_request_end.append(answered)
    tls = RESTClientObject(credentials.configuration).ssl_context
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        headers={"User-Agent": FIELD_MANAGER},
        middlewares=(authorized,),
        trace_configs=[trace],
        proxy=credentials.configuration.proxy,
        trust_env=True,
    )
