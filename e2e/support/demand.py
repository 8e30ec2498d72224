"""What autoscalers are told: an API of external metrics in the cluster, whose only metric a test sets."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .kubectl import Kubectl, Object, condition
from .served import Served
from .waiting import eventually

API = "v1beta1.external.metrics.k8s.io"
_NAME = "demand"
_SCRIPT = Path(__file__).with_name("demand_script.py")


def _certificate() -> dict[str, str]:
    """A key and a certificate of its own, which the API server is told not to verify."""
    with TemporaryDirectory() as folder:
        key, certificate = Path(folder, "tls.key"), Path(folder, "tls.crt")
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={_NAME}"]
        subprocess.run([*argv, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
        return {file.name: file.read_text() for file in (key, certificate)}


def _objects(image: str, namespace: str) -> list[Mapping[str, Any]]:
    labels = {"app": _NAME}
    container = {
        "name": _NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/script/demand.py"],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "volumeMounts": [{"name": "script", "mountPath": "/script"}, {"name": "tls", "mountPath": "/tls"}],
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "script", "configMap": {"name": _NAME}}, {"name": "tls", "secret": {"secretName": _NAME}}],
    }
    metadata = {"name": _NAME}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"demand.py": _SCRIPT.read_text()}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": _certificate()},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": 8443}]},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": _NAME, "namespace": namespace, "port": 443},
            },
        },
    ]


@dataclass(frozen=True, slots=True)
class Demand:
    """The running API."""

    kubectl: Kubectl

    def set(self, value: int) -> None:
        """From now on the metric has that value."""
        write = ("exec", f"deployment/{_NAME}", "--", "python3", "-c")
        self.kubectl(*write, f"open('/tmp/demand', 'w').write('{value}')")

    def remove(self) -> None:
        """Take the API away again: it is of the whole cluster."""
        self.kubectl.delete("apiservice", API)


def start(kubectl: Kubectl, image: str) -> Demand:
    """Serve the metric from the namespace of `kubectl`, once the API server has found it."""
    kubectl.apply(*_objects(image, kubectl.namespace))
    kubectl.rolled_out(f"deployment/{_NAME}")
    eventually("the API of metrics", lambda: kubectl.get("apiservice", API), _is_available, timeout=60)
    return Demand(kubectl)


def _is_available(item: Object) -> bool:
    return condition(item, "Available")[0] == "True"


def autoscaler(served: Served, *, each: int, least: int, most: int) -> dict[str, Any]:
    """A HorizontalPodAutoscaler of a resource: a pod for every `each` of the demand, taken away at once."""
    metric = {"metric": {"name": "demand"}, "target": {"type": "AverageValue", "averageValue": str(each)}}
    kind = served.get()["kind"]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": served.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "podium.dev/v1alpha1", "kind": kind, "name": served.name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "External", "external": metric}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }
