"""A language model in the image with vLLM for CPUs: the example applied, asked by the openai client, and swapped.

`make e2e-vllm` runs it; it is no part of `make e2e`, for the image is of some 3 GB and a load imports vLLM twice. The
model is a random one of a megabyte; what differs from the example is its place, and what fits a small machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from e2e.clusters.base import Cluster
from e2e.clusters.paths import REPOSITORY
from e2e.support.namespaces import Space
from e2e.support.served import Served
from e2e.support.store import digest, packed
from e2e.support.waiting import eventually
from tests.vllm.tiny_llama import write_tiny_llama

from podium_crds.keys import HEADER_REVISION

IMAGE = "localhost/podium-runtime:vllm-cpu"
BUILD_ARGUMENTS = {"REQUIREMENTS": "vllm", "ACCELERATOR": "cpu", "PROGRAMS": "sh lscpu"}
"""As docs/llm.md has them."""
EXAMPLE = REPOSITORY / "examples" / "vllm" / "vllm.yaml"
LOAD_S = 900.0
TOKENS = 24
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The runtime with vLLM, on every node."""
    cluster.build_image(REPOSITORY / "images" / "runtime" / "Dockerfile", REPOSITORY, IMAGE, BUILD_ARGUMENTS)
    cluster.load_images([IMAGE])
    return IMAGE


def example(image: str, version: str, source: dict[str, Any]) -> dict[str, Any]:
    """The example, with a model and a size of this test's own."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    spec = manifest["spec"]
    arguments = {**spec["vllm"]["engineArgs"], "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}
    manifest["spec"] = {
        **spec,
        "version": version,
        "source": source,
        "vllm": {"threads": 1, "engineArgs": arguments},
        "runtime": {"image": image},
        "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
        "rollout": {**spec["rollout"], "propagationSeconds": 3, "rollbackWindowSeconds": 0},
    }
    return manifest


def ask(client: openai.OpenAI) -> tuple[str, str]:
    """Revision and text of a chat that is streamed to its end."""
    raw = client.chat.completions.with_raw_response.create(
        model="chat",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    chunks: Any = list(raw.parse())
    assert chunks[-1].choices[0].finish_reason == "length"
    return raw.headers[HEADER_REVISION], "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_the_example_serves_and_is_swapped_in_place(space: Space, image: str, tmp_path: Path) -> None:
    store = space.store()
    sources = []
    for seed in (0, 1):
        archive = packed(write_tiny_llama(tmp_path / str(seed), max_positions=4096, seed=seed))
        store.put(f"tiny-{seed}.tar", archive)
        sources.append(store.source(f"tiny-{seed}.tar", digest(archive)))
    served = Served(space.kubectl, "inferencemodel", "chat")
    space.kubectl.apply(example(image, "1", sources[0]))
    served.ready(timeout=LOAD_S)
    host, port = served.address()
    with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0, timeout=120) as client:
        assert [model.id for model in client.models.list().data] == ["chat"]
        first, before = ask(client)
        assert first == served.current()
        pods = served.identities()
        space.kubectl.apply(example(image, "2", sources[1]))
        answers: list[tuple[str, str]] = []

        def next_answer() -> str:
            answers.append(ask(client))
            return answers[-1][0]

        second = eventually("an answer of version 2", next_answer, lambda name: name != first, timeout=LOAD_S)
        after = answers[-1][1]
    assert after != before, "the versions differ in their weights"
    assert set(answers) <= {(first, before), (second, after)}, "no request failed, and each was answered by one version"
    served.ready(timeout=LOAD_S)
    assert served.identities() == pods, "in place: the same pod, not restarted"
