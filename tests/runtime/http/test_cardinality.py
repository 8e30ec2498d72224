"""What clients make up never becomes a series: names, routes, methods, headers and bodies, over HTTP and gRPC."""

import random
import string
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.http.conftest import YAML
from tests.runtime.serving.processes import Server, served, until
from tritonclient.grpc import service_pb2

MARK = "zq"
"""Begins whatever is made up."""
REQUESTS = 300
SERVED = ("scale", "echo", "upper", "talk", "route")
METHODS = ("GET", "POST", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "{made}")
PATHS = (
    "/v1/models/{name}:predict",
    "/v1/models/{name}:batch",
    "/v1/models/{name}:stream",
    "/v1/models/{name}:{made}",
    "/v1/models/{name}/versions/{made}:predict",
    "/v1/models/{name}",
    "/v1/models/{name}/{made}",
    "/v1/pipelines/{name}:run",
    "/v1/pipelines/{name}/versions/{made}:stream",
    "/v1/{name}/predict",
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{made}/infer",
    "/v2/models/{name}/generate_stream",
    "/v2/models/{name}/{made}",
    "/v2/repository/{made}/index",
    "/rpc/{name}",
    "/rpc/{made}/cancel",
    "/v1/completions",
    "/v1/chat/completions",
    "/{made}",
    "/{made}/{made}?{made}={made}",
    "/metrics?{made}={made}",
)
HEADERS = (
    ("content-type", "application/json"),
    ("content-type", "application/{made}"),
    ("accept", "text/event-stream"),
    ("accept", "{made}/{made}"),
    ("x-request-id", "{made}"),
    ("podium-revision", "{made}"),
    ("podium-explain", "{made}"),
    ("traceparent", "00-{hex32}-{hex16}-01"),
    ("tracestate", "{made}={made}"),
    ("authorization", "Bearer {made}"),
    ("inference-header-content-length", "{digits}"),
    ("user-agent", "{made}"),
    ("{made}", "{made}"),
)
BODIES = (
    "",
    "{made}",
    '{{"inputs": {{"x": [[1, 2, 3]]}}}}',
    '{{"inputs": {{"text": ["hello"]}}, "{made}": 1}}',
    '{{"inputs": {{"{made}": [1]}}, "outputs": ["{made}"]}}',
    '{{"inputs": [{{"name": "{made}", "datatype": "{made}", "shape": [1], "data": [1]}}], "id": "{made}"}}',
    '{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}}], "id": "{made}"}}',
    '{{"model": "{name}", "prompt": "{made}"}}',
)

Series = frozenset[tuple[str, tuple[tuple[str, str], ...]]]


class MadeUp:
    """Requests of the same forms for each seed of names. No two seeds make up the same names."""

    def __init__(self, names: int) -> None:
        self._form = random.Random(1)
        self._names = random.Random(names)

    def filled(self, template: str) -> str:
        served_one = self._form.random() < 0.4
        name = self._form.choice(SERVED)
        return template.format(
            name=name if served_one else self.name(),
            made=self.name(),
            hex32=f"{self._names.getrandbits(128) | 1:032x}",
            hex16=f"{self._names.getrandbits(64) | 1:016x}",
            digits=self._form.choice(("0", "7", "99")),
        )

    def name(self) -> str:
        return MARK + "".join(self._names.choices(string.ascii_lowercase, k=12))

    def send(self, client: httpx.Client) -> None:
        method, path = self.filled(self._form.choice(METHODS)), self.filled(self._form.choice(PATHS))
        headers = [
            (self.filled(name), self.filled(value))
            for name, value in self._form.sample(HEADERS, self._form.randint(0, 4))
        ]
        client.request(method, path, headers=headers, content=self.filled(self._form.choice(BODIES)))

    def call(self, channel: grpc.Channel) -> None:
        method = self.filled(
            self._form.choice(("inference.GRPCInferenceService/ModelInfer",) * 4 + ("{made}/{made}",))
            if self._form.random() < 0.8
            else "inference.GRPCInferenceService/{made}"
        )
        request = service_pb2.ModelInferRequest(
            model_name=self.filled("{name}"), id=self.name(), raw_input_contents=[bytes(12)]
        )
        if self._form.random() < 0.5:
            request.model_version = self.name()
        names = {"x": "FP32"} if self._form.random() < 0.6 else {self.name(): self.name()}
        for name, datatype in names.items():
            request.inputs.add(name=name, datatype=datatype, shape=[1, 3])
        metadata = (("x-request-id", self.name()), (self.name(), self.name()))
        ask = channel.unary_unary(f"/{method}", service_pb2.ModelInferRequest.SerializeToString, lambda answer: answer)
        ask.future(request, timeout=20, metadata=metadata).exception()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that no other test asks."""
    with served(tmp_path_factory.mktemp("cardinality"), YAML, "--grpc-port", "0") as server:
        yield server


def series(url: str) -> Series:
    """Names and labels of all that is shown, but for the collector's generations, of which there are three."""
    found = set()
    for family in text_string_to_metric_families(httpx.get(url + "/metrics").text):
        if family.name == "podium_gc_pause_seconds":
            continue
        for sample in family.samples:
            found.add((sample.name, tuple(sorted(sample.labels.items()))))
    return frozenset(found)


def told(grown: Series) -> str:
    return "\n".join(f"{name}{dict(labels)}" for name, labels in sorted(grown)[:20])


def a_round(server: Server, names: int) -> Series:
    """The series after a round of requests whose names no other round has."""
    made_up = MadeUp(names)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(REQUESTS):
            made_up.send(client)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for _ in range(REQUESTS // 3):
            made_up.call(channel)
    until(lambda: in_flight(server) == 0, "every request has been counted")
    return series(server.url)


def in_flight(server: Server) -> float:
    page = httpx.get(server.url + "/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("podium_requests_in_flight "))


def test_requests_whose_names_nobody_has_heard_of_leave_no_series_behind(alone: Server) -> None:
    before = series(alone.url)
    first = a_round(alone, 1)
    routes = {dict(labels)["route"] for name, labels in first - before if name == "podium_requests_total"}
    assert {"predict", "infer", "grpc", "rpc"} <= routes, "some are answered, and counted"
    grown = a_round(alone, 2) - first
    assert not grown, told(grown)
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        page = httpx.get(alone.url + "/metrics", headers={"accept": accept}).text
        assert MARK not in page.lower()


def test_versions_that_come_and_go_leave_no_series_behind(tmp_path: Path) -> None:
    documents = YAML.split("---\n")
    yaml = "---\n".join((documents[0], documents[1].replace("spec:", 'spec:\n  version: "{}"', 1)))
    with served(tmp_path, with_version(yaml, 0)) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        counts = []
        for version in range(1, 7):
            (tmp_path / "served.yaml").write_text(with_version(yaml, version))
            path = f"/v1/models/scale/versions/{version}:predict"
            until(lambda path=path: client.post(path, json={"inputs": {"x": [[1, 2, 3]]}}).status_code == 200, path)
            until(lambda: len(revisions(server)) <= 2, "at most the serving version and the one before it")
            counts.append(len(series(server.url)))
        assert max(counts[2:]) <= counts[1], counts


def with_version(yaml: str, version: int) -> str:
    return yaml.replace('version: "{}"', f'version: "{version}"')


def revisions(server: Server) -> set[str]:
    """Those that any series names."""
    return {dict(labels)["revision"] for _, labels in series(server.url) if "revision" in dict(labels)}
