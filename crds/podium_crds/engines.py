"""Option blocks of the engines, one class for each, and what they share. Their names in a resource are the engines'."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from podium_crds.base import Form, JsonObject, Rule, Ruled, json_bytes

MAX_INLINE_BYTES = 32 * 1024
"""Largest open JSON object in a resource, such as the parameters or the warm-up requests of a model."""

Entrypoint = Annotated[
    str,
    Form(
        r"^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        "module:attribute, such as encoder:build",
    ),
    Field(max_length=253),
]
"""`module:attribute`."""

ArtifactFile = Annotated[
    str,
    Form(
        r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        "the path of a file inside the artifact, such as model.onnx or weights/model.pt2",
    ),
    Field(max_length=253),
]
"""A file by its path relative to the artifact; no part of it begins with a dot."""

Threads = Annotated[int, Field(ge=1, le=256)]
Device = Literal["Auto", "Cpu", "Cuda"]


def inline_rule(field: str, wire: str, advice: str) -> Rule:
    """An open object is at most MAX_INLINE_BYTES long; `advice` says where the rest belongs."""
    return Rule(
        cel=None,
        message=f"{wire} is larger than {MAX_INLINE_BYTES} bytes: {advice}",
        holds=lambda holder: json_bytes(getattr(holder, field)) <= MAX_INLINE_BYTES,
    )


_PARAMETERS_RULE = inline_rule("parameters", "parameters", "put the rest into a file of the artifact")
_TORCH_SOURCES = ("entrypoint", "exportedProgram", "torchScript")


def _one_torch_source() -> Rule:
    count = " + ".join(f"(has(self.{source}) ? 1 : 0)" for source in _TORCH_SOURCES)
    return Rule(
        cel=f"{count} == 1",
        message="torch takes exactly one of entrypoint, exportedProgram and torchScript: write entrypoint: "
        "module:function, exportedProgram: model.pt2 or torchScript: model.pt, and remove the others",
        holds=lambda torch: [torch.entrypoint, torch.exported_program, torch.torch_script].count(None) == 2,
    )


class TorchEngine(Ruled):
    """PyTorch: a module that is called with named tensors. It is built by a function of the artifact, or was exported
    to a file."""

    entrypoint: Entrypoint | None = None
    """`module:function` inside the artifact; called with the artifact's directory and parameters, returns a module."""
    exported_program: ArtifactFile | None = None
    """A file that torch.export.save wrote. Dimension 0 of its inputs must be dynamic for batches."""
    torch_script: ArtifactFile | None = None
    """A file that torch.jit.save wrote. PyTorch calls TorchScript deprecated: use exportedProgram for new models."""
    dtype: Literal["FP32", "FP16", "BF16"] | None = None
    """FP32, FP16 or BF16. Absent: as stored. An exported program has its types built in."""
    device: Device = "Auto"
    """Auto (CUDA where the pod has a GPU), Cpu or Cuda."""
    compile: bool = False
    """Whether the module goes through torch.compile."""
    threads: Threads = 1
    """Intra-op threads of each worker process."""
    parameters: JsonObject = Field(default_factory=dict)
    """Handed to the entrypoint as they are."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _PARAMETERS_RULE,
        _one_torch_source(),
        Rule(
            cel="!has(self.exportedProgram) || !has(self.dtype)",
            message="an exported program has its types built in: remove dtype, or export the model at that type",
            holds=lambda torch: torch.exported_program is None or torch.dtype is None,
        ),
        Rule(
            cel="!has(self.torchScript) || !has(self.compile) || !self.compile",
            message="a TorchScript file is compiled already: remove compile, or export the model with torch.export "
            "and use exportedProgram",
            holds=lambda torch: torch.torch_script is None or not torch.compile,
        ),
    )


class OnnxEngine(Ruled):
    """ONNX Runtime: a graph in a file, called with named tensors."""

    file: ArtifactFile = "model.onnx"
    """The graph inside the artifact. Weights in files of their own must lie in the artifact as well."""
    device: Device = "Auto"
    """Auto (CUDA where the pod has a GPU), Cpu or Cuda."""
    threads: Threads = 1
    """Intra-op threads of each worker process."""
    optimization: Literal["Disabled", "Basic", "Extended", "All"] = "All"
    """How far the graph is rewritten at load: Disabled, Basic, Extended or All."""
    spinning: bool = False
    """Whether idle threads spin for a moment: quicker where the pod has its cores for itself, wasteful elsewhere."""


class PythonEngine(Ruled):
    """A Python class in the artifact with `load`, `infer` and, where it has them, `infer_batch` and `unload`."""

    entrypoint: Entrypoint
    """`module:Class` inside the artifact."""
    threads: Threads = 1
    """Threads that numeric libraries may use in each worker process."""
    parameters: JsonObject = Field(default_factory=dict)
    """Handed to the entrypoint as they are."""

    rules: ClassVar[tuple[Rule, ...]] = (_PARAMETERS_RULE,)


class HandlerEngine(Ruled):
    """A Python class in the artifact with `preprocess`, `infer` and `postprocess`: rows of all requests one by one,
    then as one batch, then one by one again."""

    entrypoint: Entrypoint
    """`module:Class` inside the artifact."""
    threads: Threads = 1
    """Threads that numeric libraries may use in each worker process."""
    parameters: JsonObject = Field(default_factory=dict)
    """Handed to the class's `load` as they are."""

    rules: ClassVar[tuple[Rule, ...]] = (_PARAMETERS_RULE,)
