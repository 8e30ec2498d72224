"""`podium serve -f` with a language model whose file is edited: in place, or with a gap where that is allowed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.runtime.serving.processes import until
from tests.vllm.conftest import ENGINE_ARGS, LOAD_S, MODEL, Served, serving
from tests.vllm.tiny_llama import write_tiny_llama

from podium_crds.keys import HEADER_REVISION

pytestmark = pytest.mark.timeout(1500)
TOKENS = 60


@dataclass
class Ledger:
    """What clients without retries were told, until they stop asking."""

    client: openai.OpenAI
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    """(how it was asked, revision, text)."""
    failures: list[Exception] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, kind: str, one: Callable[[], tuple[str, str]]) -> None:
        """Asks one after the other."""
        while not self.stopped.is_set():
            try:
                revision, text = one()
                self.answers.append((kind, revision, text))
            except openai.OpenAIError as error:
                self.failures.append(error)

    def completion(self) -> tuple[str, str]:
        """At once."""
        raw = self.client.completions.with_raw_response.create(
            model="tiny", prompt="Once", max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
        answer = raw.parse()
        assert answer.usage is not None
        assert answer.usage.completion_tokens == TOKENS
        return raw.headers[HEADER_REVISION], answer.choices[0].text

    def stream(self) -> tuple[str, str]:
        """In events, which must be complete."""
        raw = self.client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        chunks: Any = list(raw.parse())
        assert chunks[-1].choices[0].finish_reason == "length"
        return raw.headers[HEADER_REVISION], "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@contextmanager
def load(client: openai.OpenAI) -> Iterator[Ledger]:
    """Three clients that pause nowhere."""
    ledger = Ledger(client)
    threads = [
        threading.Thread(target=ledger.ask, args=(kind, one))
        for kind, one in (("whole", ledger.completion), ("stream", ledger.stream), ("stream", ledger.stream))
    ]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        ledger.stopped.set()
        for thread in threads:
            thread.join(60)


def test_editing_the_file_loses_nothing(tiny_model: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other", max_positions=8192, seed=1)
    (tmp_path / "served").mkdir()
    text = MODEL.format(model=tiny_model, engine_args=ENGINE_ARGS)
    with serving(tmp_path / "served", text) as served, load(served.client) as ledger:
        first = served.revision()
        until(lambda: len(ledger.answers) > 20, "answers of version 1")
        served.file.write_text(text.replace(str(tiny_model), str(other)).replace('version: "1"', 'version: "2"'))
        until(lambda: served.revision() != first, lambda: f"version 2\n{served.process.tail()}", LOAD_S)
        second = served.revision()
        switched = len(ledger.answers)
        until(lambda: len(ledger.answers) > switched + 20, "answers of version 2")
        until(lambda: served.process.says("unloading"), "version 1 let go")
        assert_fits_or_says_so(served, text)
        assert served.revision() == second
    assert ledger.failures == []
    assert {revision for _, revision, _ in ledger.answers} == {first, second}
    said = {(kind, revision): text for kind, revision, text in ledger.answers}
    assert len(said) == 4
    assert len(set(said.values())) == 4, "what each version says to each question is its own"
    assert all(said[kind, revision] == text for kind, revision, text in ledger.answers), "no answer is of both"


def assert_fits_or_says_so(served: Served, text: str) -> None:
    """A version with a cache larger than any machine: refused before vLLM is even imported, with the numbers."""
    serving_now = served.file.read_text()
    mark = len(served.process.lines)
    huge = text.replace("kv_cache_memory_bytes: 67108864", f"kv_cache_memory_bytes: {1 << 50}")
    served.file.write_text(huge.replace('version: "1"', 'version: "3"'))
    refusal = served.process.says("failed: InsufficientMemoryForOverlap", after=mark, within_s=LOAD_S)
    assert f"KV cache {1 << 30} MiB" in refusal
    assert "raise resources.limits.memory" in refusal
    served.process.says("still serving", after=mark)
    served.file.write_text(serving_now)
