"""What a pipeline keeps of a model that it calls in other pods (`placement: Referenced`): the contract alone. Pure."""

from podium_crds.assignment import EngineKind
from podium_crds.engines import PythonEngine
from podium_crds.errors import Problem, ResourceError
from podium_crds.model import ModelDefinition, Source
from podium_crds.serving import Exposure


def called_contract(model: str, definition: ModelDefinition, exposure: Exposure, path: str) -> ModelDefinition:
    """Inputs, outputs and `idempotent` of a model, in a definition that loads nothing: its weights may change without a
    revision of the pipeline. Raises ResourceError, at `path`, for a model that steps cannot call."""
    problem = None
    if exposure.auth.api_key_secret_ref is not None:
        problem = "asks for API keys, which a step has none of: use placement: Colocated, or let the model go without"
    if definition.engine is EngineKind.VLLM:
        problem = "has engine VLLM, which takes no named tensors: ask the model itself"
    if problem:
        raise ResourceError("InferencePipeline", (Problem(path, f"InferenceModel {model} {problem}"),))
    return ModelDefinition(
        source=Source(uri=f"configmap://{model}"),
        engine=EngineKind.PYTHON,
        python=PythonEngine(entrypoint="remote:Remote"),
        inputs=definition.inputs,
        outputs=definition.outputs,
        idempotent=definition.idempotent,
    )
