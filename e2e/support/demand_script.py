"""Runs in a pod: an API of external metrics with one metric, `demand`, whose value is what /tmp/demand says."""

import json
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = "external.metrics.k8s.io/v1beta1"
LIST = "ExternalMetricValueList"
VALUE = Path("/tmp/demand")


def answer(path: str) -> object:
    """The document at a path; None where there is none."""
    if path == f"/apis/{VERSION}":
        metric = {"name": "demand", "singularName": "", "namespaced": True, "kind": LIST, "verbs": ["get"]}
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": [metric]}
    if path.startswith(f"/apis/{VERSION}/namespaces/") and path.endswith("/demand"):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        item = {"metricName": "demand", "metricLabels": {}, "timestamp": now, "value": VALUE.read_text()}
        return {"kind": LIST, "apiVersion": VERSION, "metadata": {}, "items": [item]}
    return None


class Handler(BaseHTTPRequestHandler):
    """GET alone; nothing is logged."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answers in JSON."""
        found = answer(self.path.partition("?")[0])
        body = json.dumps(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


VALUE.write_text("0")
server = ThreadingHTTPServer(("", 8443), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
