"""The part of a cluster that an API server alone lacks, for one namespace: Deployments get pods, pods are processes.

Each pod is a real `podium serve --pod` on a loopback address of its own, with its ConfigMap and Secret in folders that
lag behind as a kubelet's mounts do. Readiness is the real probe's answer. No container, no scheduler, no network rules.
"""

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from tests.support.controlplane import ControlPlane

from podium_crds.keys import DATA_PORT, LABEL_MANAGED_BY, LABEL_POOL, MANAGED_BY
from podium_operator.kube.client import KubeClient, Manifest
from podium_operator.kube.errors import KubeError
from podium_operator.kube.kinds import Ref

NODE = "local"
_PERIOD_S = 0.1
_STOP_S = 30.0
_addresses = iter(f"127.{os.getpid() % 100 + 100}.{third}.{fourth}" for third in range(256) for fourth in range(1, 255))


@dataclass
class LocalPod:
    """One pod and its process."""

    name: str
    uid: str
    manifest: Manifest
    folder: Path
    ip: str
    process: asyncio.subprocess.Process | None = None
    started: datetime | None = None
    ready_since: datetime | None = None
    restarts: int = 0
    mounted: dict[str, tuple[float, Mapping[str, bytes]]] = field(default_factory=dict)
    status: Manifest = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its data port."""
        return f"http://{self.ip}:{DATA_PORT}"

    def kill(self) -> None:
        """As the container's PID 1 being killed."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)


class LocalNode:
    """Runs the pods of a namespace between entering and leaving the `async with` block."""

    def __init__(
        self, plane: ControlPlane, client: KubeClient, namespace: str, folder: Path, *, mount_lag_s: float = 1.0
    ) -> None:
        self._plane = plane
        self._client = client
        self._namespace = namespace
        self._folder = folder
        self._mount_lag_s = mount_lag_s
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._slices: dict[str, Manifest] = {}
        """By Service, as last written."""
        self.pods: dict[str, LocalPod] = {}
        """By name, Terminating ones included."""
        self.release: Path | None = None
        """A checkout whose runtime the containers that start from now on run; None: this one's."""
        self.prefixes: Iterator[tuple[str, ...]] = iter(())
        """Commands that run the containers that start from now on, one each, for as long as there are any."""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2))
        self._task = asyncio.create_task(self._run(), name="local node")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._task is not None
        # A pass in work ends by itself: cancelled while it starts a process, it would leave that behind.
        self._stopping.set()
        await asyncio.wait([self._task], timeout=_STOP_S)
        failure = self._task.exception() if self._task.done() else TimeoutError("a pass of the node did not end")
        for pod in self.pods.values():
            pod.kill()
            if pod.process is not None:
                await pod.process.wait()
        await self._http.close()
        if failure is not None and exc is None:
            raise failure

    def uids(self) -> set[str]:
        """UIDs of the pods that exist."""
        return {pod.uid for pod in self.pods.values()}

    def log_of(self, pod: LocalPod) -> str:
        """The end of what its process printed."""
        path = pod.folder / "log"
        return path.read_text()[-4000:] if path.exists() else ""

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._pass()
            except KubeError as exc:
                if exc.status not in (404, 409):
                    raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _PERIOD_S)

    async def _pass(self) -> None:
        found = {each["metadata"]["name"]: each for each in await self._client.list("Pod", self._namespace)}
        for deployment in await self._client.list("Deployment", self._namespace):
            await self._scale(deployment, found)
        for name, manifest in found.items():
            if name not in self.pods:
                self.pods[name] = self._new_pod(manifest)
            await self._drive(self.pods[name], manifest)
        for name in set(self.pods) - found.keys():
            await self._forget(name)
        for service in await self._client.list("Service", self._namespace):
            if (service["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGED_BY:
                await self._endpoints(service)

    async def _scale(self, deployment: Manifest, found: Mapping[str, Manifest]) -> None:
        pool = deployment["metadata"]["name"]
        here = [
            name
            for name, pod in found.items()
            if pod["metadata"]["labels"].get(LABEL_POOL) == pool and not pod["metadata"].get("deletionTimestamp")
        ]
        wanted = deployment["spec"].get("replicas", 1)
        for _ in range(wanted - len(here)):
            await self._create(deployment)
        youngest = sorted(here, key=lambda name: (self._is_ready(name), -_age_rank(found[name])))
        for name in youngest[: max(0, len(here) - wanted)]:
            await self._client.delete(Ref("Pod", self._namespace, name))

    def _is_ready(self, name: str) -> bool:
        pod = self.pods.get(name)
        return pod is not None and pod.ready_since is not None

    async def _create(self, deployment: Manifest) -> None:
        template = deployment["spec"]["template"]
        name = f"{deployment['metadata']['name']}-{os.urandom(3).hex()}"
        metadata = {**template["metadata"], "name": name, "namespace": self._namespace}
        spec = {**template["spec"], "nodeName": NODE}
        await self._client.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def _new_pod(self, manifest: Manifest) -> LocalPod:
        metadata = manifest["metadata"]
        folder = self._folder / metadata["name"]
        folder.mkdir(parents=True)
        return LocalPod(metadata["name"], metadata["uid"], manifest, folder, next(_addresses))

    async def _drive(self, pod: LocalPod, manifest: Manifest) -> None:
        await self._mount(pod)
        if manifest["metadata"].get("deletionTimestamp"):
            await self._terminate(pod)
            return
        if pod.process is None or pod.process.returncode is not None:
            if not self._has_mounts(pod):
                return
            if pod.process is not None:
                pod.restarts += 1
            await self._start(pod)
        ready = await self._probe(pod)
        if ready != (pod.ready_since is not None):
            pod.ready_since = datetime.now(UTC) if ready else None
        await self._write_status(pod)

    async def _mount(self, pod: LocalPod) -> None:
        for volume in pod.manifest["spec"]["volumes"]:
            if "configMap" in volume:
                source = Ref("ConfigMap", self._namespace, volume["configMap"]["name"])
            elif "secret" in volume:
                source = Ref("Secret", self._namespace, volume["secret"]["secretName"])
            else:
                continue
            found = await self._client.find(source)
            if found is None:
                continue
            files = _files(found)
            now = asyncio.get_running_loop().time()
            first = volume["name"] not in pod.mounted
            due, seen = pod.mounted.get(volume["name"], (now, files))
            if seen != files:
                due = now + self._mount_lag_s
            pod.mounted[volume["name"]] = (due, files)
            if first or (due <= now and due >= 0):
                _write(pod.folder / volume["name"], files)

    def _has_mounts(self, pod: LocalPod) -> bool:
        return {"podium-assignment", "podium-admin-key"} <= pod.mounted.keys()

    async def _start(self, pod: LocalPod) -> None:
        state = pod.folder / "state"
        state.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")}
        environment |= {
            "PODIUM_HOST": pod.ip,
            "PODIUM_POD_UID": pod.uid,
            "PODIUM_ASSIGNMENT_DIR": str(pod.folder / "podium-assignment"),
            "PODIUM_ADMIN_KEY_DIR": str(pod.folder / "podium-admin-key"),
            "PODIUM_STATE_DIR": str(state),
            "PODIUM_MOUNT_POLL_SECONDS": "0.1",
            "PODIUM_ARENA_BYTES": str(8 << 20),
            "PODIUM_DRAIN_MARGIN_SECONDS": "1",
            "PODIUM_ARTIFACT_ATTEMPTS": "1",
        }
        if self.release is not None:
            environment["PYTHONPATH"] = os.pathsep.join(str(self.release / part) for part in ("crds", "runtime"))
        arguments = pod.manifest["spec"]["containers"][0]["args"]
        command = (*next(self.prefixes, ()), str(Path(sys.executable).parent / "podium"), *arguments)
        with (pod.folder / "log").open("ab") as log:
            pod.process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
        pod.started, pod.ready_since = datetime.now(UTC), None

    async def _probe(self, pod: LocalPod) -> bool:
        try:
            async with self._http.get(f"{pod.url}/v2/health/ready") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _write_status(self, pod: LocalPod) -> None:
        assert pod.started is not None
        ready = "True" if pod.ready_since else "False"
        since = _rfc3339(pod.ready_since or pod.started)
        status = {
            "phase": "Running",
            "podIP": pod.ip,
            "podIPs": [{"ip": pod.ip}],
            "conditions": [
                {"type": kind, "status": ready, "lastTransitionTime": since} for kind in ("Ready", "ContainersReady")
            ],
            "containerStatuses": [
                {
                    "name": "runtime",
                    "image": "local",
                    "imageID": "",
                    "ready": pod.ready_since is not None,
                    "restartCount": pod.restarts,
                    "state": {"running": {"startedAt": _rfc3339(pod.started)}},
                }
            ],
        }
        if status != pod.status:
            metadata = {"name": pod.name, "namespace": self._namespace}
            await self._client.apply_status({"kind": "Pod", "metadata": metadata, "status": status})
            pod.status = status

    async def _terminate(self, pod: LocalPod) -> None:
        if pod.process is not None and pod.process.returncode is None:
            if pod.status.get("terminating") is None:
                pod.process.send_signal(signal.SIGTERM)
                pod.status["terminating"] = True
            return
        await self._delete_now(pod.name)

    async def _delete_now(self, name: str) -> None:
        """As the kubelet does once the containers have ended."""
        arguments = ("delete", "pod", name, "-n", self._namespace, "--grace-period=0", "--force", "--wait=false")
        await asyncio.to_thread(self._plane.kubectl, *arguments)

    async def _forget(self, name: str) -> None:
        pod = self.pods.pop(name)
        pod.kill()
        if pod.process is not None:
            await pod.process.wait()
        shutil.rmtree(pod.folder, ignore_errors=True)

    async def _endpoints(self, service: Manifest) -> None:
        metadata, selector = service["metadata"], service["spec"].get("selector") or {}
        endpoints = [
            {
                # An EndpointSlice may hold no loopback address, and nothing here reads it.
                "addresses": [pod.ip.replace("127.", "10.", 1)],
                "conditions": {"ready": pod.ready_since is not None and "terminating" not in pod.status},
                "targetRef": {"kind": "Pod", "namespace": self._namespace, "name": pod.name, "uid": pod.uid},
            }
            for pod in sorted(self.pods.values(), key=lambda pod: pod.name)
            if selector.items() <= pod.manifest["metadata"]["labels"].items() and pod.status
        ]
        labels = {**metadata["labels"], "kubernetes.io/service-name": metadata["name"], LABEL_MANAGED_BY: MANAGED_BY}
        wanted = {
            "kind": "EndpointSlice",
            "metadata": {"name": metadata["name"], "namespace": self._namespace, "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": DATA_PORT}],
        }
        if wanted != self._slices.get(metadata["name"]):
            await self._client.apply(wanted)
            self._slices[metadata["name"]] = wanted


def _files(manifest: Manifest) -> Mapping[str, bytes]:

    data: Mapping[str, Any] = manifest.get("data") or {}
    if manifest["kind"] == "Secret":
        return {name: base64.b64decode(text) for name, text in data.items()}
    return {name: text.encode() for name, text in data.items()}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            temporary = folder / f".{name}"
            temporary.write_bytes(content)
            temporary.replace(path)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()


def _age_rank(manifest: Manifest) -> float:
    return datetime.fromisoformat(manifest["metadata"]["creationTimestamp"]).timestamp()


def _rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
