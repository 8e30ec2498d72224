"""The handle: a process of its own, books that close, and no conclusion from a process that died."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from e2e.probers.load import NUMBER, Load
from e2e.probers.probe import Probe, ProbeError


class Doubling(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        number = json.loads(self.rfile.read(int(self.headers["content-length"])))["x"]
        body = json.dumps({"y": number * 2}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("podium-revision", "one")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def load() -> Iterator[Load]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Doubling)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Load("127.0.0.1", server.server_port, "/", f'{{"x": {NUMBER}}}', rate_per_s=100, clients=5)
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_books_close_and_agree(load: Load) -> None:
    with Probe(load) as probe:
        probe.wait_for_successes(30, timeout=30)
        assert len(probe.so_far().entries) >= 30
        ledger = probe.stop()
    assert ledger.failed == []
    assert ledger.lost == 0
    assert ledger.mismatched(lambda body: json.loads(body)["y"], {"one": 2}) == []


def test_a_prober_that_dies_proves_nothing(load: Load) -> None:
    with Probe(load, command=["sh", "-c", "exit 3"]) as probe, pytest.raises(ProbeError, match="3"):
        probe.stop()


def test_waiting_for_what_never_comes_shows_the_books(load: Load) -> None:
    with Probe(load) as probe, pytest.raises(TimeoutError, match="outcomes"):
        probe.wait(lambda entries: False, what="the impossible", timeout=0.5)
