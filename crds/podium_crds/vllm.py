"""The options of engine VLLM in a resource. What vLLM itself takes is checked where it is installed: in the pod."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podium_crds.base import JsonObject, Rule, Ruled, json_bytes

MAX_ENGINE_ARGS_BYTES = 32 * 1024


class VllmEngine(Ruled):
    """vLLM: a language model in the Hugging Face layout, behind /v1/completions and /v1/chat/completions."""

    engine_args: JsonObject = Field(default_factory=dict)
    """Engine arguments by vLLM's own names, such as max_model_len or tensor_parallel_size. Checked against the vLLM of
    the runtime image when the model is loaded; what names other files, opens ports or loads code is refused."""
    device: Literal["Auto", "Cpu", "Cuda"] = "Auto"
    """Auto (CUDA where the pod has a GPU), Cpu or Cuda."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """On a CPU: threads of one forward."""
    trust_remote_code: bool = False
    """Whether Python files that the model brings along may run. Needs source.digest, so that it is known which."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=None,
            message=f"engineArgs is larger than {MAX_ENGINE_ARGS_BYTES} bytes: put what is long into a file of the "
            "artifact",
            holds=lambda block: json_bytes(block.engine_args) <= MAX_ENGINE_ARGS_BYTES,
        ),
    )
