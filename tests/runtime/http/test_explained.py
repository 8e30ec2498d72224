"""Where the time of a request went: Server-Timing, `podium call --explain`, metrics, and spans at a real collector."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.runtime.http.conftest import YAML
from tests.runtime.serving.processes import Server, podium, served, until
from tests.support.collector import Collector, collecting

SCALE = {"inputs": {"x": [[1, 2, 3]]}}
TEXT = {"inputs": {"text": ["hello"]}}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


def stages(answer: httpx.Response) -> list[str]:
    """Names and subjects of the answer's Server-Timing."""
    found = []
    for entry in answer.headers["server-timing"].split(", "):
        name, *facts = entry.split(";")
        subject = next((fact[6:-1] for fact in facts if fact.startswith("desc=")), "")
        assert all(re.fullmatch(r"dur=\d+\.\d+", fact) for fact in facts if fact.startswith("dur="))
        found.append(f"{name} {subject}".rstrip())
    return found


def test_a_request_that_asks_is_told_its_stages_and_another_is_not(client: httpx.Client) -> None:
    told = client.post("/v1/models/scale:predict", json=SCALE, headers={"podium-explain": "1"})
    assert stages(told) == ["queue scale", "infer scale"]
    assert "rows=1" in told.headers["server-timing"]
    assert "server-timing" not in client.post("/v1/models/scale:predict", json=SCALE).headers


def test_a_pipeline_tells_each_step_and_what_its_member_did(client: httpx.Client) -> None:
    told = client.post("/v1/pipelines/route:run", json=TEXT, headers={"podium-explain": "1"})
    assert sorted(stages(told)) == sorted(
        ["queue classify", "infer classify", "step classify", "queue upper", "infer upper", "step shout"]
    )


def test_podium_call_draws_the_stages(server: Server) -> None:
    arguments = ("call", "route", "-i", 'text=["hello"]', "--url", server.url, "--explain")
    with podium(*arguments) as process:
        process.ends()
        drawn = [line for line in process.tail().splitlines() if "█" in line]
    assert drawn[0].startswith("step classify")
    assert len(drawn) == 6
    assert all(" ms" in line for line in drawn)


def test_metrics_tell_stages_batches_steps_and_the_loop(client: httpx.Client) -> None:
    client.post("/v1/pipelines/route:run", json=TEXT).raise_for_status()
    page = client.get("/metrics").text
    for stage in ("gather", "hand_off", "infer", "output"):
        assert re.search(rf'podium_batch_stage_seconds_count\{{.*stage="{stage}".*\}} [1-9]', page), stage
    assert re.search(r"podium_queue_seconds_count\{.*\} [1-9]", page)
    assert re.search(r'podium_step_duration_seconds_count\{model="route",.*step="shout"\} [1-9]', page)
    assert re.search(r'podium_batches_closed_total\{.*reason="\w+".*\} [1-9]', page)
    assert re.search(r"podium_event_loop_lag_seconds_count \d", page)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def traced(collector: Collector, tmp_path: Path) -> Iterator[str]:
    """The address of a server whose spans go to the collector, and which samples nothing by itself."""
    with served(tmp_path, YAML, **collector.environment) as server:
        yield server.url


def test_a_sampled_caller_gets_spans_below_its_own_and_exemplars_and_others_get_none(
    traced: str, collector: Collector
) -> None:
    httpx.post(traced + "/v1/models/scale:predict", json=SCALE).raise_for_status()
    answer = httpx.post(traced + "/v1/pipelines/route:run", json=TEXT, headers=SAMPLED)
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceparent"].endswith("-01")
    until(lambda: len(collector.spans) == 7, lambda: f"seven spans, not {[span.name for span in collector.spans]}")
    spans = {span.name: span for span in collector.spans}
    root = spans["POST /v1/pipelines/route:run"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert root.parent_span_id.hex() == CALLER
    assert {span.parent_span_id for span in collector.spans if span is not root} == {root.span_id}
    assert {"step classify", "infer upper"} <= spans.keys()
    assert root.start_time_unix_nano <= spans["infer upper"].start_time_unix_nano < root.end_time_unix_nano
    page = httpx.get(traced + "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    [family] = [f for f in text_string_to_metric_families(page) if f.name == "podium_request_duration_seconds"]
    exemplars = {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}
    assert exemplars == {TRACE}
    assert json.loads(httpx.get(traced + "/v2").text)["name"] == "podium"
