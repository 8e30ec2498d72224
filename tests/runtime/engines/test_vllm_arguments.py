"""What a resource may ask of vLLM, judged without vLLM: the names of its arguments are handed in."""

import pytest

from podium.engines.base import LoadError
from podium.engines.vllm.arguments import checked_arguments, refusal

KNOWN = {"max_model_len", "max_num_seqs", "dtype", "kv_cache_memory_bytes", "worker_cls", "generation_config"}


def test_known_arguments_are_taken_as_they_are() -> None:
    given = {"max_model_len": 512, "dtype": "float32", "generation_config": "vllm"}
    assert checked_arguments(given, KNOWN, "0.32.0") == given


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("maxModelLen", "max_model_len"),
        ("max-model-len", "max_model_len"),
        ("max_model_length", "max_model_len"),
        ("max_num_seq", "max_num_seqs"),
    ],
)
def test_an_unknown_argument_is_named_with_what_was_meant(name: str, near: str) -> None:
    with pytest.raises(LoadError) as caught:
        checked_arguments({name: 1}, KNOWN, "0.32.0")
    assert f"engineArgs.{name}: vLLM 0.32.0 has no such argument" in str(caught.value)
    assert f"did you mean {near}" in str(caught.value)


def test_no_refused_argument_is_proposed() -> None:
    with pytest.raises(LoadError) as caught:
        checked_arguments({"workerCls": "a.b"}, KNOWN, "0.32.0")
    assert "worker_cls" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("model", "trust_remote_code", "download_dir", "allowed_local_media_path", "tokenizer", "hf_token"),
        *("worker_cls", "worker_extension_cls", "scheduler_cls", "reasoning_parser_plugin", "io_processor_plugin"),
        *("logits_processors", "compilation_config", "distributed_executor_backend", "model_class_overrides"),
        *("master_port", "data_parallel_rpc_port", "kv_transfer_config", "kv_events_config", "otlp_traces_endpoint"),
        *("log_config_file", "profiler_config", "enable_prompt_embeds", "spec_model", "_api_process_count"),
    ],
)
def test_what_opens_ports_or_loads_code_or_files_is_refused(name: str) -> None:
    with pytest.raises(LoadError, match=f"engineArgs.{name} is not taken here"):
        checked_arguments({name: "x"}, {*KNOWN, name}, "0.32.0")


@pytest.mark.parametrize(
    "given", [{"generation_config": "/etc"}, {"speculative_config": {"model": "/elsewhere", "method": "eagle"}}]
)
def test_a_value_that_points_elsewhere_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(LoadError):
        checked_arguments(given, {*KNOWN, *given}, "0.32.0")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(LoadError) as caught:
        checked_arguments({"nope": 1, "worker_cls": "a.b"}, KNOWN, "0.32.0")
    assert "nope" in str(caught.value)
    assert "worker_cls" in str(caught.value)


def test_the_plain_arguments_of_a_language_model_are_not_refused() -> None:
    wanted = ("max_model_len", "max_num_seqs", "tensor_parallel_size", "quantization", "gpu_memory_utilization", "seed")
    assert [name for name in wanted if refusal(name)] == []
