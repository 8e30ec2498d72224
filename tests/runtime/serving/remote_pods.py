"""Two pods on loopback, one of which calls a model of the other; and a server that answers as it should not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from tests.runtime.serving.builders import a_member
from tests.runtime.serving.processes import RunningPod, running_pod

from podium_crds.assignment import (
    Artifact,
    Assignment,
    DrainPolicy,
    Generation,
    Graph,
    Member,
    RemoteModel,
    ResourceKind,
    ResourceRef,
    Revision,
    TrafficTarget,
)
from podium_crds.tensors import DType, TensorSpec

WIDE: dict[str, Any] = {
    "inputs": (TensorSpec(name="x", dtype=DType.FP32, shape=(-1, -1)),),
    "outputs": (TensorSpec(name="y", dtype=DType.FP32, shape=(-1, -1)),),
}


def remote(url: str, model: str = "scale", *, idempotent: bool = False) -> Member:
    there = RemoteModel(url=url, model=model)
    member = a_member(1, **WIDE).model_copy(update={"name": "far", "artifact": Artifact(files={}), "remote": there})
    return member.model_copy(update={"load_hash": f"remote-{model}", "idempotent": idempotent})


def pipeline(far: Member, **step: Any) -> Assignment:
    """A member of this pod, and then one of another."""
    near = a_member(5, **WIDE).model_copy(update={"name": "near"})
    steps = [
        {"name": "first", "model": "near", "inputs": [{"name": "x", "from": "request.x"}]},
        {"name": "second", "model": "far", "inputs": [{"name": "x", "from": "first.y"}], **step},
    ]
    graph = Graph.model_validate({"steps": steps, "outputs": [{"name": "y", "from": "second.y"}]})
    revision = Revision(name="both-1", version="1", members=(near, far), graph=graph, timeout_seconds=10)
    return Assignment(
        generation=Generation(sequence=1),
        resource=ResourceRef(kind=ResourceKind.PIPELINE, name="both"),
        revisions=(revision,),
        traffic=(TrafficTarget(revision="both-1", weight=100),),
        promoted="both-1",
        drain=DrainPolicy(propagation_seconds=0, drain_timeout_seconds=5, restart_grace_seconds=2),
    )


def error(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


@contextmanager
def a_pod(folder: Path, name: str) -> Iterator[RunningPod]:
    (folder / name).mkdir()
    with running_pod(folder / name) as pod:
        yield pod


Reply = tuple[int, dict[str, str], bytes]


class Odd:
    """A server that gives replies in turn, and keeps what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        turn = iter(replies)
        keep = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                keep.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, content = next(turn)
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextmanager
def calling(folder: Path, *replies: Reply, idempotent: bool = False, **step: Any) -> Iterator[tuple[RunningPod, Odd]]:
    odd = Odd(*replies)
    try:
        with a_pod(folder, "near") as near:
            near.push(pipeline(remote(odd.url, idempotent=idempotent), **step))
            near.serves("both-1")
            yield near, odd
    finally:
        odd.stop()
