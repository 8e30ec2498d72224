"""A handle on one applied resource: what its status says, its pods, its Service, and load against it."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from e2e.probers.http1 import RequestError
from e2e.probers.load import RATE_PER_S
from e2e.probers.probe import Probe

from podium_crds.keys import ADMIN_KEY_DIR, ADMIN_PORT, DATA_PORT, LABEL_MODEL, LABEL_PIPELINE
from podium_crds.token import admin_token

from . import oip
from .kubectl import Kubectl, Object, age_of_truth, condition
from .models import Chain, Scaler
from .waiting import eventually

READY_S = 90.0
CHILDREN = (
    "deployments,replicasets,pods,services,endpointslices,configmaps,secrets,controllerrevisions,poddisruptionbudgets"
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Served:
    """An InferenceModel or InferencePipeline in a namespace."""

    kubectl: Kubectl
    kind: str
    """`inferencemodel` or `inferencepipeline`."""
    name: str

    @property
    def resource(self) -> str:
        """The qualified plural: other groups may carry the same."""
        return f"{self.kind}s.podium.dev"

    @property
    def selector(self) -> str:
        """The stable label of its children."""
        label = LABEL_MODEL if self.kind == "inferencemodel" else LABEL_PIPELINE
        return f"{label}={self.name}"

    def get(self) -> Object:
        """The resource as it is now."""
        return self.kubectl.get(self.resource, self.name)

    def apply(self, wanted: Scaler | Chain) -> None:
        """Apply a new version of it."""
        self.kubectl.apply(wanted.manifest())

    def ready(self, *, timeout: float = READY_S) -> Object:
        """Return once Ready is True for the generation that is applied now."""
        return self.settled("Ready", "True", timeout=timeout)

    def settled(self, kind: str, status: str, reason: str = "", *, timeout: float = READY_S) -> Object:
        """Return once that condition holds, judged at the present generation."""

        def holds(item: Object) -> bool:
            seen = condition(item, kind)
            current = age_of_truth(item, kind) == item["metadata"]["generation"]
            return current and seen[0] == status and reason in ("", seen[1])

        what = f"{self.kind}/{self.name} {kind}={status} {reason}"
        return eventually(what, self.get, holds, timeout=timeout)

    def scales(self) -> dict[str, float]:
        """Revision name -> factor, for every revision that status lists."""
        listed = self.get().get("status", {}).get("revisions", [])
        return {each["name"]: float(each["version"].removeprefix("x")) for each in listed}

    def current(self) -> str:
        """`status.currentRevision`."""
        return str(self.get().get("status", {}).get("currentRevision", ""))

    def pods(self) -> list[Object]:
        """Its pods, Terminating ones too."""
        return self.kubectl.list("pods", selector=self.selector)

    def identities(self) -> dict[str, tuple[str, int]]:
        """Pod name -> UID and container restarts."""
        return {pod["metadata"]["name"]: (pod["metadata"]["uid"], restarts(pod)) for pod in self.pods()}

    def address(self) -> tuple[str, int]:
        """Service address and port behind `status.url`."""
        item = eventually(
            f"{self.name} has a url", self.get, lambda item: bool(item.get("status", {}).get("url")), timeout=30
        )
        url = urlsplit(item["status"]["url"])
        service = self.kubectl.get("service", str(url.hostname).split(".", 1)[0])
        return str(service["spec"]["clusterIP"]), url.port or 80

    def load(self, *, long_s: float = 0.0, rate_per_s: float = RATE_PER_S) -> Probe:
        """A prober of its Service. A model is asked for streams that last `long_s`, a pipeline for long answers."""
        host, port = self.address()
        streams = self.kind == "inferencemodel"
        return Probe(oip.load(host, port, self.name, long_s=long_s, streams=streams, rate_per_s=rate_per_s))

    def answer(self, value: float = 1.0) -> tuple[float, str]:
        """The number and revision of one answer through the Service."""
        host, port = self.address()
        got = oip.ask(host, port, self.name, value)
        assert got.status == 200, f"{got.status}: {got.body.decode(errors='replace')[:2000]}"
        return oip.number(got.body.decode()), got.headers.get("podium-revision", "")

    def leads_somewhere(self) -> bool:
        """Whether the nodes route the Service yet: they may learn of an endpoint a moment after the API server has."""
        host, port = self.address()
        try:
            oip.ask(host, port, self.name, 1)
        except RequestError:
            return False
        return True

    def answer_of(self, pod: Object, value: float = 1.0) -> tuple[float, str]:
        """The same from one pod, past the Service."""
        got = oip.ask(pod["status"]["podIP"], DATA_PORT, self.name, value)
        assert got.status == 200, f"{got.status}: {got.body.decode(errors='replace')[:2000]}"
        return oip.number(got.body.decode()), got.headers.get("podium-revision", "")

    def report(self, pod: Object) -> Mapping[str, Any]:
        """What the pod says it holds, read at its admin port as the operator reads it."""
        uid = pod["metadata"]["uid"]
        request = urllib.request.Request(
            f"http://{pod['status']['podIP']}:{ADMIN_PORT}/admin/v1/report",
            headers={"Authorization": f"Bearer {admin_token(self._key(pod), uid)}"},
        )
        with _DIRECT.open(request, timeout=10) as answer:
            report: Mapping[str, Any] = json.loads(answer.read())
        return report

    def delete(self, *, timeout: float = 90.0) -> None:
        """Delete it and wait until nothing of it is left."""
        self.kubectl.delete(self.resource, self.name)
        self.kubectl.gone(CHILDREN, selector=self.selector, timeout=timeout)

    def secret(self, pod: Object) -> str:
        """Name of the Secret with the admin key, as the pod mounts it."""
        mounts = {each["mountPath"]: each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
        volume = next(each for each in pod["spec"]["volumes"] if each["name"] == mounts[ADMIN_KEY_DIR])
        return str(volume["secret"]["secretName"])

    def _key(self, pod: Object) -> bytes:
        return b64decode(self.kubectl.get("secret", self.secret(pod))["data"]["current"])


def restarts(pod: Object) -> int:
    """How often the containers of a pod were started again."""
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", []))


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready and not on its way out."""
    return condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]
