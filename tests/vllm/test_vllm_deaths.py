"""Whoever of vLLM dies: streams end with an error that has a name, nothing is left behind, and it serves again."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.runtime.serving.processes import podium, until
from tests.vllm.conftest import LOAD_S, MODEL, Served, command, is_alive, session_of

pytestmark = pytest.mark.timeout(900)


def engine_process(worker: int) -> int:
    """vLLM's own process under a worker."""
    (pid,) = [pid for pid in session_of(worker) if "EngineCore" in command(pid)]
    return pid


def begin_stream(served: Served) -> Iterator[object]:
    """A stream of which the first chunk has come, and which goes on for a while."""
    stream = served.client.completions.create(
        model="tiny", prompt="Once", max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    return chunks


def assert_broken(chunks: Iterator[object]) -> None:
    with pytest.raises(openai.APIError) as caught:
        for _ in chunks:
            pass
    assert caught.value.code == "worker_died", caught.value
    assert caught.value.type == "overloaded_error"


def assert_serves_again(served: Served, old_worker: int) -> None:
    until(lambda: served.is_ready() and answers(served), lambda: f"serving again\n{served.process.tail()}", LOAD_S)
    assert served.worker() != old_worker


def answers(served: Served) -> bool:
    try:
        served.client.completions.create(model="tiny", prompt="x", max_tokens=1, timeout=LOAD_S)
    except openai.InternalServerError:  # 503 while the worker is restarted
        return False
    return True


def test_a_worker_killed_mid_stream(served: Served) -> None:
    worker = served.worker()
    family = session_of(worker)
    generated = served.measure("podium_llm_generated_tokens_total")
    chunks = begin_stream(served)
    os.kill(worker, signal.SIGKILL)
    assert_broken(chunks)
    until(lambda: not any(is_alive(pid) for pid in family), "every process of the worker gone")
    assert_serves_again(served, worker)
    assert served.measure("podium_llm_generated_tokens_total") >= generated, "counts survive a death"


def test_an_engine_process_killed_mid_stream(served: Served) -> None:
    worker = served.worker()
    family = session_of(worker)
    chunks = begin_stream(served)
    os.kill(engine_process(worker), signal.SIGKILL)
    assert_broken(chunks)
    until(lambda: not any(is_alive(pid) for pid in family), "every process of the worker gone")
    assert_serves_again(served, worker)


def test_a_front_end_killed_leaves_nothing(served: Served) -> None:
    """The last test with this server."""
    worker = served.worker()
    family = session_of(worker)
    folder = Path(next(line for line in environment(worker) if line.startswith("TMPDIR=")).removeprefix("TMPDIR="))
    assert list(folder.glob("podium-vllm-*"))
    served.process.signal(signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in family), "every process of the worker gone")
    until(lambda: not list(folder.glob("podium-vllm-*")), "the engine's folder gone")


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")


def test_a_misspelt_argument_fails_the_load_and_is_named(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(MODEL.format(model=tiny_model, engine_args="{maxModelLen: 64, worker_cls: a.b}"))
    with podium("serve", "-f", str(path), "--port", "0", PODIUM_STATE_DIR=str(tmp_path / "state")) as process:
        process.says("did you mean max_model_len?", within_s=LOAD_S)
        process.says("engineArgs.worker_cls is not taken here")
