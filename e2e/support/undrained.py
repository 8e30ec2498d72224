"""The negative control's victim: a plain Deployment of a server that ends at SIGTERM at once, as most do by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2e.probers.http1 import RequestError

from . import oip

NAME = "undrained"
PORT = 8080
_SERVER = """\
import json, os, signal, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        values = request["inputs"][0]["data"]
        time.sleep(request["inputs"][1]["data"][0])
        body = json.dumps({"outputs": [{"name": "y", "data": values}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("podium-revision", "plain")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("", 8080), Echo).serve_forever()
"""


def objects(image: str, replicas: int = 2) -> list[Mapping[str, Any]]:
    """Deployment and Service, for `kubectl apply`. Its rollout is the default one: surge first, a readiness probe."""
    labels = {"app": NAME}
    container = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "-c", _SERVER],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
    ]


def answers(address: str) -> bool:
    """Whether the Service leads to the server yet: for a moment after its creation its address is nobody's."""
    try:
        answer = oip.ask(address, PORT, NAME, 1, timeout_s=2)
    except RequestError:
        return False
    return answer.headers.get("podium-revision") == "plain"
