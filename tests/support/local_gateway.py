"""A gateway beside a local node: follows a live HTTPRoute with a lag, and its Services' EndpointSlices, answers for the
route in its status, and brings real requests to real pods. No listener, host or path: only what a route divides.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from tests.support.gateway_api import answer
from tests.support.world import World

from podium_operator.kube.kinds import Ref

_PERIOD_S = 0.05


class LocalGateway:
    """Asks the model `scale` without pause between entering and leaving the block, never twice for one request.

    Like the strictest of gateways it sends nothing to endpoints that are not ready, terminating ones included.
    """

    def __init__(self, world: World, *, lag_s: float = 0.5) -> None:
        """`lag_s`: from a route's write to its being followed; less than the propagationSeconds of the rollout."""
        self._world = world
        self._lag_s = lag_s
        self._follows: Mapping[str, int] = {}
        """Service → weight."""
        self._generation = 0
        self._credit: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        """By revision."""
        self.routes: list[Mapping[str, int]] = []
        """Every way to divide that it was given."""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self._tasks = [asyncio.create_task(self._controller()), asyncio.create_task(self._requests())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stopping.set()
        await asyncio.wait(self._tasks, timeout=30)
        await self._http.close()
        for task in self._tasks:
            task.result()

    async def _controller(self) -> None:
        """Answers for each generation of the route, and follows it a while later."""
        while not await self._stopped(_PERIOD_S):
            route = await self._world.client.find(Ref("HTTPRoute", self._world.namespace, "scale"))
            if route is None or route["metadata"]["generation"] == self._generation:
                continue
            weights = {each["name"]: int(each["weight"]) for each in route["spec"]["rules"][0]["backendRefs"]}
            await asyncio.to_thread(answer, self._world.plane, self._world.namespace, "scale")
            await asyncio.sleep(self._lag_s)
            self._generation, self._follows = route["metadata"]["generation"], weights
            self.routes.append(weights)

    async def _requests(self) -> None:
        while not await self._stopped(0.02):
            if not self._follows:
                continue
            service = self._chosen()
            ready = await self._ready(service)
            if not ready:
                self.failures.append(f"503: {service} has no ready endpoint, weights are {self._follows}")
                continue
            self._turns[service] += 1
            await self._ask(ready[self._turns[service] % len(ready)])

    def _chosen(self) -> str:
        """Smooth weighted round robin: the same weights give the same shares, without chance."""
        for name, weight in self._follows.items():
            self._credit[name] += weight
        chosen = max(self._follows, key=lambda name: (self._follows[name] > 0, self._credit[name]))
        self._credit[chosen] -= sum(self._follows.values())
        return chosen

    async def _ready(self, service: str) -> list[str]:
        """Pods that the Service's EndpointSlice names as ready."""
        found = await self._world.client.find(Ref("EndpointSlice", self._world.namespace, service))
        endpoints = [] if found is None else found.get("endpoints") or []
        names = [each["targetRef"]["name"] for each in endpoints if each["conditions"]["ready"]]
        return [name for name in names if name in self._world.node.pods]

    async def _ask(self, pod: str) -> None:
        url = f"{self._world.node.pods[pod].url}/v1/models/scale:predict"
        try:
            async with self._http.post(url, json={"inputs": {"x": [1.0]}}) as told:
                body = await told.json()
                if told.status != 200:
                    self.failures.append(f"{pod}: {told.status} {body}")
                    return
                self.answers[told.headers["podium-revision"]] += 1
        except (aiohttp.ClientError, TimeoutError) as exc:
            self.failures.append(f"{pod}: {exc or type(exc).__name__}")

    async def _stopped(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), within_s)
        return self._stopping.is_set()
