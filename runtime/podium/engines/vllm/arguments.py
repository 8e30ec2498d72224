"""`engineArgs` of a resource → keyword arguments of vLLM. Pure: the fields of the installed version are handed in.

Refused is what Podium decides itself, what reads or writes files outside the artifact, opens ports, or loads code. The
rules by name pattern are there for versions of vLLM that nobody here has read.
"""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from podium.engines.base import LoadError

_PODIUM = "Podium sets it"
_FILES = "a model's files come from its source alone"
_CODE = "it would load code that is not the model's pinned own"
_PORTS = "a worker opens no ports"
_CLIENT = "it would have the engine unpickle what clients send"

_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("model", "model_weights", "served_model_name", "device_ids", "disable_log_stats", "enable_log_requests"),
        _PODIUM,
    ),
    **dict.fromkeys(("aggregate_engine_logging", "log_level", "logging_config", "shutdown_timeout"), _PODIUM),
    **dict.fromkeys(
        ("tokenizer", "revision", "tokenizer_revision", "hf_token", "spec_model", "default_mm_loras"), _FILES
    ),
    **dict.fromkeys(("model_loader_extra_config", "profiler_config", "ec_manager_config", "engram_config"), _FILES),
    "trust_remote_code": "write vllm.trustRemoteCode and pin source.digest",
    **dict.fromkeys(("code_revision", "model_class_overrides", "logits_processors", "additional_config"), _CODE),
    **dict.fromkeys(("distributed_executor_backend", "compilation_config", "watermark_config", "load_format"), _CODE),
    **dict.fromkeys(("nnodes", "node_rank", "collect_detailed_traces", "enable_elastic_ep"), _PORTS),
    **dict.fromkeys(("enable_prompt_embeds", "enable_mm_embeds"), _CLIENT),
}
_REFUSED_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"_"), "it is vLLM's own"),
    (re.compile(r".*_(cls|plugin|plugins)\Z"), _CODE),
    (re.compile(r".*_(dir|path|paths|file)\Z"), _FILES),
    (re.compile(r".*(_addr|_address|_port|_endpoint|_events_config|_transfer_config)\Z"), _PORTS),
    (re.compile(r"data_parallel_|master_|fault_tolerance|weight_transfer"), _PORTS),
)
_PLAIN_VALUES: Mapping[str, frozenset[object]] = {
    "generation_config": frozenset({"auto", "vllm"}),
    "config_format": frozenset({"auto", "hf", "mistral"}),
    "tokenizer_mode": frozenset({"auto", "hf", "slow", "mistral"}),
}
"""Arguments that may name a file, a module or a place as well: only these values are taken."""


def checked_arguments(given: Mapping[str, Any], known: Collection[str], version: str) -> dict[str, Any]:
    """The arguments as they are, if all are known to this vLLM and none is refused. Raises LoadError, naming each."""
    faults = [fault for name, value in given.items() if (fault := _fault(name, value, known, version))]
    if faults:
        raise LoadError("; ".join(faults))
    return dict(given)


def _fault(name: str, value: Any, known: Collection[str], version: str) -> str | None:
    if reason := refusal(name):
        return f"engineArgs.{name} is not taken here: {reason}"
    if name not in known:
        return f"engineArgs.{name}: vLLM {version} has no such argument{_near(name, known)}"
    if name in _PLAIN_VALUES and value not in _PLAIN_VALUES[name]:
        allowed = ", ".join(sorted(str(choice) for choice in _PLAIN_VALUES[name]))
        return f"engineArgs.{name} is {value!r:.80}; expected one of {allowed}"
    if name == "speculative_config" and isinstance(value, dict) and "model" in value:
        return f"engineArgs.{name}.model is not taken here: {_FILES}"
    return None


def refusal(name: str) -> str | None:
    """Why an argument of that name is refused, whatever its value; None where it is not."""
    if reason := _REFUSED.get(name):
        return reason
    return next((reason for pattern, reason in _REFUSED_PATTERNS if pattern.match(name)), None)


def _near(name: str, known: Collection[str]) -> str:
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    takeable = [other for other in known if refusal(other) is None]
    near = [spelled] if spelled in takeable else get_close_matches(spelled, takeable, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else ""
