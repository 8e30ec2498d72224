"""The live page in a real browser, of a real `podium serve` under real requests."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.browser.browser import CHROMIUM, DRIVER, Browser, browser
from tests.runtime.http.test_live_page import hostile
from tests.runtime.serving.processes import Podium, podium

from podium.http.live.page import document, headers

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (shutil.which(CHROMIUM) and shutil.which(DRIVER)), reason="no Chromium here: make setup-browser"
    ),
]

CODE = """
from podium import Model

class Same(Model):
    def infer(self, inputs):
        return {"x": inputs["x"]}

class Unlucky(Model):
    def infer(self, inputs):
        raise ValueError("unlucky")
"""
INLINE = 'inline: {{source: {{uri: "file:./code"}}, engine: Python, python: {{entrypoint: "m:{}"}}}}'
PIPELINE = f"""
apiVersion: podium.dev/v1alpha1
kind: InferencePipeline
metadata: {{name: flow}}
spec:
  models:
  - {{name: same, {INLINE.format("Same")}}}
  - {{name: unlucky, {INLINE.format("Unlucky")}}}
  steps:
  - {{name: first, model: same, inputs: [{{name: x, from: request.x}}]}}
  - {{name: second, model: same, inputs: [{{name: x, from: first.x}}]}}
  - name: never
    model: unlucky
    when: {{from: request.bad, equals: true}}
    inputs: [{{name: x, from: first.x}}]
  outputs: [{{name: y, from: second.x}}, {{name: z, from: never.x}}]
"""
X = {"dtype": "FP32", "shape": [1], "data": [1.0]}
MODEL = """
apiVersion: podium.dev/v1alpha1
kind: InferenceModel
metadata: {name: solo}
spec: {source: {uri: "file:./code"}, engine: Python, python: {entrypoint: "m:Same"}}
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as made:
        yield made


@contextmanager
def served(folder: Path, text: str) -> Iterator[tuple[Podium, str, str]]:
    """The process, the address of its data port, and that of its page."""
    (folder / "code").mkdir()
    (folder / "code" / "m.py").write_text(CODE)
    (folder / "served.yaml").write_text(text)
    state = str(folder / "state")
    with podium("serve", "-f", str(folder / "served.yaml"), "--port", "0", PODIUM_STATE_DIR=state) as process:
        process.says("now serving revision")
        yield process, process.says("listening on").split()[2], process.says("live page on").split()[3]


@contextmanager
def asked(url: str, path: str, **inputs: object) -> Iterator[set[int]]:
    """Requests, one after the other, as long as the block lasts; the statuses they were answered with."""
    stop, answered = threading.Event(), set[int]()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"{url}/v1/{path}", json={"inputs": {"x": X, **inputs}})
                answered.add(answer.status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join()


def box(step: str) -> str:
    """Selector of the box of a step, by its place in the graph."""
    return f'g[data-box="r0.0.{step}"]'


def shows_rate(window: Browser, selector: str) -> str | None:
    """The rate that something shows, where it is more than none."""
    (text,) = window.texts(selector)
    return text if text.endswith("/s") and not text.startswith(("0/", "—")) else None


def test_steps_show_what_goes_through_them_and_what_fails(tmp_path: Path, window: Browser) -> None:
    with served(tmp_path, PIPELINE) as (_, url, page):
        window.open(page)
        window.until(lambda: window.texts("#link") == ["live"], "the first figures")
        assert window.texts("g.step .name") == ["first", "second", "never"]
        assert window.texts("g.busy .name") == []
        with asked(url, "pipelines/flow:run", bad={"dtype": "BOOL", "shape": [1], "data": [False]}) as answered:
            window.until(lambda: shows_rate(window, f"{box('0')} .rate"), "the rate of the first step")
            window.until(lambda: window.texts("g.busy .name") == ["first", "second"], "the boxes that are busy")
            window.until(lambda: window.texts(f"{box('1')} .latency")[0].startswith("p50 0."), "a latency")
            assert window.texts(f"{box('2')} .rate") == ["0/s"], "its condition does not hold"
            assert window.texts("g.failing .name") == []
            assert window.texts("tbody td")[2:4] == ["Active", "100 %"]
            assert answered == {200}
        with asked(url, "pipelines/flow:run", bad={"dtype": "BOOL", "shape": [1], "data": [True]}):
            window.until(lambda: window.texts("g.failing .name") == ["never"], "the step that fails")
            assert "failing" in window.texts(f"{box('2')} .failures")[0]
        window.until(lambda: window.texts("g.busy .name") == [], "quiet")
        assert window.complaints() == []
        origin = page.rsplit("/", 2)[0]
        loaded = window.run("return performance.getEntriesByType('resource').map(each => each.name)")
        assert loaded
        assert all(each.startswith(f"{origin}/") for each in loaded)


def test_a_new_revision_is_drawn_without_being_asked_for(tmp_path: Path, window: Browser) -> None:
    with served(tmp_path, PIPELINE) as (process, _, page):
        window.open(page)
        window.until(lambda: window.texts("#link") == ["live"], "the first figures")
        window.run("window.here = true")
        (tmp_path / "served.yaml").write_text(
            PIPELINE.replace("name: second,", "name: another,").replace("second.x", "another.x")
        )
        process.says("now serving revision", after=len(process.lines))
        window.until(lambda: "another" in window.texts("details[open] g.step .name"), "the new step")
        assert window.run("return window.here") is None


def test_a_model_is_one_box(tmp_path: Path, window: Browser) -> None:
    with served(tmp_path, MODEL) as (_, url, page), asked(url, "models/solo:predict"):
        window.open(page)
        window.until(lambda: shows_rate(window, f"{box('0')} .rate"), "its rate")
        assert window.texts("g.step .name") == ["solo"]
        assert window.texts("g.step .model") == ["Python"]


def test_when_the_process_is_gone_the_page_says_so(tmp_path: Path, window: Browser) -> None:
    with served(tmp_path, MODEL) as (_, _, page):
        window.open(page)
        window.until(lambda: window.texts("#link") == ["live"], "the first figures")
    window.until(lambda: window.texts("#link")[0].startswith("no answer"), "that nobody answers")
    assert window.run("return document.body.classList.contains('stale')")


@contextmanager
def given(html: str) -> Iterator[str]:
    """A server of one page, with the headers that it has in a pod."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in {"content-type": "text/html; charset=utf-8", **headers()}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *words: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_markup_in_names_is_shown_and_does_nothing(window: Browser) -> None:
    with given(document(hostile(), "s")) as url:
        window.open(url)
        assert window.texts("h2")[0].startswith(hostile()[0].resident.resource.name)
        assert window.run("return window.pwned === undefined && document.querySelectorAll('img').length === 0")
        assert window.run("return document.scripts.length") == 1


def test_where_markup_came_through_after_all_the_policy_stops_it(window: Browser) -> None:
    page = document(hostile(), "s").replace(
        "</main>", "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'></main>"
    )
    with given(page) as url:
        window.complaints()
        window.open(url)
        window.until(lambda: any("Content Security Policy" in each for each in window.complaints()), "a refusal")
        assert window.run("return window.pwned === undefined")


@pytest.fixture(scope="module")
def quiet_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("quiet"), PIPELINE) as (_, _, page):
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 380])
def test_it_reads_well_light_and_dark_wide_and_narrow(
    quiet_page: str, window: Browser, scheme: str, width: int
) -> None:
    """Nothing but the drawing and the table scrolls sideways, and no text is fainter than WCAG's 4.5 to 1."""
    window.look_like(width=width, height=900, scheme=scheme)
    window.open(quiet_page)
    window.until(lambda: window.texts("#link") == ["live"], "the first figures")
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.run(FAINT) == []


FAINT = """
const light = (color) => {
  const parts = color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
  const [r, g, b] = parts.map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const behind = (element) => {
  const rect = element.closest("g")?.querySelector("rect");
  if (rect) return getComputedStyle(rect).fill;
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
};
const isFaint = (element) => {
  const style = getComputedStyle(element), ink = element.closest("svg") ? style.fill : style.color;
  const pair = [light(ink), light(behind(element))];
  return (Math.max(...pair) + .05) / (Math.min(...pair) + .05) < 4.5;
};
const all = document.querySelectorAll("h1, h2, small, th, td, summary, footer, .badge, svg text");
return [...all].filter(each => each.textContent && isFaint(each)).map(each => each.outerHTML);
"""
