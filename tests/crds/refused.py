"""Resources that are wrong in one way each, with the message, and the same without the fault.

Used twice: against the Python predicates, and against the CEL rules in a real API server.
"""

from dataclasses import dataclass
from typing import Any

from tests.crds.builders import DIGEST, JsonObject, a_definition, a_model, a_pipeline


@dataclass(frozen=True, slots=True)
class Refused:
    """`message` occurs in the answer to `document`; `repaired` is accepted."""

    name: str
    document: JsonObject
    message: str
    repaired: JsonObject


def _step(name: str, source: str = "request.x", model: str = "m") -> JsonObject:
    return {"name": name, "model": model, "inputs": [{"name": "x", "from": source}]}


_SHADOWED: JsonObject = {"steps": [{"weight": 50}], "analysis": {"parity": {"shadowPercent": 10}}}


def _tolerated(**parity: object) -> JsonObject:
    return {"steps": [{"weight": 50}], "analysis": {"parity": {"shadowPercent": 10, **parity}}}


def _asking(**check: str) -> JsonObject:
    asked = {"address": "http://prometheus:9090", "query": "vector(1)", **check}
    return {"steps": [{"weight": 50}], "analysis": {"prometheus": asked}}


def _graph(steps: list[JsonObject], output: str = "one.y") -> JsonObject:
    return a_pipeline(
        models=[{"name": "m", "inline": a_definition()}], steps=steps, outputs=[{"name": "y", "from": output}]
    )


def _on_gpus(fraction: str, **fields: Any) -> JsonObject:
    """A Torch model in a pod with one GPU."""
    torch = {"engine": "Torch", "torch": {"entrypoint": "m:build"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    document = a_model(**{**torch, "gpuFraction": fraction, **fields})
    del document["spec"]["python"]
    return document


def _shared_by(*fractions: str) -> JsonObject:
    """A pipeline of members with these parts of the pod's one GPU, written as a string."""
    document = _graph([_step(f"s{place}", model=f"m{place}") for place in range(len(fractions))], "s0.y")
    document["spec"]["outputs"] = [{"name": f"y{place}", "from": f"s{place}.y"} for place in range(len(fractions))]
    document["spec"]["models"] = [
        {"name": f"m{place}", "inline": a_definition(gpuFraction=fraction)} for place, fraction in enumerate(fractions)
    ]
    document["spec"]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    return document


def _routed(**gateway: Any) -> JsonObject:
    return a_model(exposure={"gateway": {"parentRefs": [{"name": "public"}], **gateway}})


_TWO = ["request.x", "request.y"]


def _edges(count: int, alternatives: list[str] | None = None) -> JsonObject:
    source: JsonObject = {"fromFirst": alternatives} if alternatives else {"from": "request.x"}
    inputs = [{"name": f"x{i}", **source} for i in range(32)]
    steps = [_step("one"), *({"name": f"s{i}", "model": "m", "inputs": inputs} for i in range(count // 32))]
    return _graph(steps)


def _tensors(count: int) -> JsonObject:
    declared = [{"name": f"x{i}", "dtype": "FP32", "shape": [-1]} for i in range(32)]
    models = [{"name": f"m{i}", "inline": a_definition(inputs=declared, outputs=declared)} for i in range(count // 64)]
    models.append({"name": "m", "inline": a_definition(inputs=declared[: count % 64])})
    return a_pipeline(models=models, steps=[_step("one")], outputs=[{"name": "y", "from": "one.y"}])


def _spec(engine: str, **blocks: JsonObject) -> JsonObject:
    return {**a_model(), "spec": {"source": {"uri": "s3://m/k"}, "engine": engine, **blocks}}


_TORCH = {"entrypoint": "encoder:build"}
_PYTHON = {"entrypoint": "echo:Echo"}
_VLLM = {"source": {"uri": "s3://m/k"}, "engine": "VLLM", "vllm": {}}

_IDS = {"name": "ids", "dtype": "INT64", "shape": [-1, -1]}


def _padded(*inputs: JsonObject, **changes: Any) -> JsonObject:
    return a_model(inputs=list(inputs), batching={"padding": [{"input": "ids", **changes}]})


def _ragged(**changes: Any) -> JsonObject:
    return a_model(batching={"ragged": {"inputs": ["ids"], "offsetsInput": "offsets", **changes}})


REFUSED = (
    Refused("padding of an undeclared input", _padded(), "are declared, are not BYTES", _padded(_IDS)),
    Refused("padding of text", _padded({**_IDS, "dtype": "BYTES"}), "are not BYTES", _padded(_IDS)),
    Refused("padding of a fixed size", _padded({**_IDS, "shape": [-1, 7]}), "have size -1", _padded(_IDS)),
    Refused(
        "padding of a dimension that is not there",
        _padded(_IDS, dimensions=[2]),
        "have size -1 in the padded dimensions",
        _padded(_IDS, dimensions=[1]),
    ),
    Refused(
        "an output cut in fewer dimensions than are padded",
        _padded({**_IDS, "shape": [-1, -1, -1]}, dimensions=[1, 2], outputs=[{"name": "y"}]),
        "must name one dimension for each padded dimension",
        _padded({**_IDS, "shape": [-1, -1, -1]}, dimensions=[1, 2], outputs=[{"name": "y", "dimensions": [1, 2]}]),
    ),
    Refused(
        "a padding value that is no number", _padded(_IDS, value="zero"), "expected a number in quotes", _padded(_IDS)
    ),
    Refused(
        "a ragged batch whose rows cannot be told apart",
        a_model(batching={"ragged": {"inputs": ["ids"]}}),
        "needs offsetsInput, lengthsInput or both",
        _ragged(),
    ),
    Refused("one name for two inputs", _ragged(lengthsInput="offsets"), "must be two names", _ragged(lengthsInput="n")),
    Refused(
        "padding and ragged",
        a_model(
            inputs=[_IDS], batching={"padding": [{"input": "ids"}], "ragged": {"inputs": ["x"], "offsetsInput": "o"}}
        ),
        "two ways to batch different lengths",
        _padded(_IDS),
    ),
    Refused(
        "engine Torch without its block",
        a_model(engine="Torch"),
        "write torch: {entrypoint: module:function}",
        {**a_model(), "spec": {"source": {"uri": "s3://m/k"}, "engine": "Torch", "torch": _TORCH}},
    ),
    Refused(
        "engine Torch with a second block",
        a_model(engine="Torch", torch=_TORCH, python=_PYTHON),
        "and remove the block onnx or python or handler",
        {**a_model(), "spec": {"source": {"uri": "s3://m/k"}, "engine": "Torch", "torch": _TORCH}},
    ),
    Refused(
        "engine VLLM without its block",
        {**a_model(), "spec": {"source": {"uri": "s3://m/k"}, "engine": "VLLM"}},
        "write vllm: {}",
        {**a_model(), "spec": {"source": {"uri": "s3://m/k"}, "engine": "VLLM", "vllm": {}}},
    ),
    Refused(
        "engine VLLM with declared tensors",
        {**a_model(), "spec": {**_VLLM, "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1]}]}},
        "takes no named tensors: remove inputs",
        {**a_model(), "spec": _VLLM},
    ),
    Refused(
        "gRPC to engine VLLM",
        {**a_model(), "spec": {**_VLLM, "exposure": {"grpc": True}}},
        "remove exposure.grpc, and ask the OpenAI routes",
        {**a_model(), "spec": {**_VLLM, "exposure": {"grpc": False}}},
    ),
    Refused(
        "a port of gRPC in two places",
        a_model(exposure={"grpc": True}, env=[{"name": "PODIUM_GRPC_PORT", "value": "9000"}]),
        "remove it from env, or remove exposure.grpc",
        a_model(exposure={"grpc": True}, env=[{"name": "COLOUR", "value": "blue"}]),
    ),
    *(
        Refused(f"{host!r} as a host", _routed(hostnames=[host]), "expected a host name", _routed(hostnames=[right]))
        for host, right in (
            ("https://models.example.com", "models.example.com"),
            ("models.example.com:443", "models.example.com"),
            ("Models.example.com", "models.example.com"),
            ("models.*.com", "*.models.com"),
            ("10.0.0.1", "ten.example"),
            ("-models.example.com", "m-odels.example.com"),
            ("", "localhost"),
        )
    ),
    Refused(
        "one host twice",
        _routed(hostnames=["a.example", "a.example"]),
        "names a host twice",
        _routed(hostnames=["a.example", "b.example"]),
    ),
    *(
        Refused(f"{path!r} as a path", _routed(path=path), "a path that begins with '/'", _routed(path=right))
        for path, right in (
            ("minilm", "/minilm"),
            ("/", "/~"),
            ("/minilm/", "/minilm"),
            ("/a//b", "/a/b"),
            ("/a/../b", "/a/b..c"),
            ("/a?b", "/a_b"),
        )
    ),
    Refused("a route from nowhere", _routed(parentRefs=[]), "at least 1 items", _routed()),
    Refused(
        "one Gateway twice",
        _routed(parentRefs=[{"name": "public"}, {"name": "public", "sectionName": "https"}]),
        "names a Gateway twice",
        _routed(parentRefs=[{"name": "public", "sectionName": "http"}, {"name": "public", "sectionName": "https"}]),
    ),
    Refused(
        "remote code of a model that is not pinned",
        {**a_model(), "spec": {**_VLLM, "vllm": {"trustRemoteCode": True}}},
        "pin it with source.digest",
        {
            **a_model(),
            "spec": {**_VLLM, "source": {"uri": "s3://m/k", "digest": DIGEST}, "vllm": {"trustRemoteCode": True}},
        },
    ),
    Refused(
        "engine Torch without anything to load",
        _spec("Torch", torch={"threads": 2}),
        "torch takes exactly one of entrypoint, exportedProgram and torchScript",
        _spec("Torch", torch={"exportedProgram": "model.pt2"}),
    ),
    Refused(
        "engine Torch with two things to load",
        _spec("Torch", torch={"entrypoint": "encoder:build", "torchScript": "model.pt"}),
        "torch takes exactly one of entrypoint, exportedProgram and torchScript",
        _spec("Torch", torch={"torchScript": "model.pt", "dtype": "BF16"}),
    ),
    Refused(
        "another type for an exported program",
        _spec("Torch", torch={"exportedProgram": "model.pt2", "dtype": "FP16"}),
        "has its types built in: remove dtype",
        _spec("Torch", torch={"exportedProgram": "model.pt2", "compile": True}),
    ),
    Refused(
        "a TorchScript file to be compiled",
        _spec("Torch", torch={"torchScript": "model.pt", "compile": True}),
        "a TorchScript file is compiled already: remove compile",
        _spec("Torch", torch={"torchScript": "model.pt", "compile": False}),
    ),
    Refused(
        "a file outside the artifact",
        _spec("Onnx", onnx={"file": "../model.onnx"}),
        "expected the path of a file inside the artifact",
        _spec("Onnx", onnx={"file": "graphs/v1.2/model.onnx"}),
    ),
    Refused(
        "engine Onnx without its block",
        _spec("Onnx"),
        "write onnx: {file: model.onnx}",
        _spec("Onnx", onnx={}),
    ),
    Refused(
        "engine Handler with the block of Python",
        _spec("Handler", python=_PYTHON),
        "write handler: {entrypoint: module:Class} and remove the block torch or onnx or python or vllm",
        _spec("Handler", handler=_PYTHON),
    ),
    Refused(
        "engine Python with a second block",
        a_model(torch=_TORCH),
        "remove the block torch",
        a_model(),
    ),
    Refused(
        "http without a digest",
        a_model(source={"uri": "http://store/m"}),
        "http:// is not encrypted",
        a_model(source={"uri": "http://store/m", "digest": DIGEST}),
    ),
    Refused(
        "credentials for a source that takes none",
        a_model(source={"uri": "file:///models/m", "credentialsSecretRef": {"name": "keys"}}),
        "credentialsSecretRef is used for s3:// and https:// only",
        a_model(source={"uri": "https://store/m", "credentialsSecretRef": {"name": "keys"}}),
    ),
    Refused(
        "a scheme that is not there",
        a_model(source={"uri": "gs://bucket/key"}),
        "expected s3://bucket/key, https://host/path",
        a_model(source={"uri": "configmap://code/encoder"}),
    ),
    Refused(
        "a digest of another kind",
        a_model(source={"uri": "s3://m/k", "digest": "md5:0123"}),
        "expected sha256: and 64 lower-case hex digits",
        a_model(source={"uri": "s3://m/k", "digest": DIGEST}),
    ),
    Refused(
        "a rollout that can never move",
        a_model(rollout={"maxSurge": 0, "maxUnavailable": 0}),
        "maxSurge and maxUnavailable are both 0",
        a_model(rollout={"maxSurge": 0, "maxUnavailable": 1}),
    ),
    Refused(
        "Recreate without leave",
        a_model(rollout={"strategy": "Recreate"}),
        "also set allowRecreate: true",
        a_model(rollout={"strategy": "Recreate", "allowRecreate": True}),
    ),
    Refused(
        "steps that do not rise",
        a_model(rollout={"steps": [{"weight": 50}, {"weight": 10}]}),
        "the weights of steps must rise",
        a_model(rollout={"steps": [{"weight": 10}, {"weight": 50}]}),
    ),
    Refused(
        "the same step twice",
        a_model(rollout={"steps": [{"weight": 50}, {"weight": 50, "pauseSeconds": 9}]}),
        "the weights of steps must rise",
        a_model(rollout={"steps": [{"weight": 50}, {"weight": 51, "pauseSeconds": 9}]}),
    ),
    Refused(
        "an analysis of nothing",
        a_model(rollout={"steps": [{"weight": 50}], "analysis": {"minRequests": 10}}),
        "set maxErrorPercent, maxP99LatencyPercent, parity or prometheus",
        a_model(rollout={"steps": [{"weight": 50}], "analysis": {"minRequests": 10, "maxErrorPercent": 1}}),
    ),
    Refused(
        "an analysis without steps",
        a_model(rollout={"analysis": {"maxErrorPercent": 1}}),
        "analysis judges steps, and there are none",
        a_model(rollout={"steps": [{"weight": 5}], "analysis": {"maxErrorPercent": 1}}),
    ),
    Refused(
        "a step of weight 0 without copies",
        a_model(rollout={"steps": [{"weight": 0}, {"weight": 50}], "analysis": {"maxErrorPercent": 1}}),
        "set analysis.parity so that it gets copies",
        a_model(
            idempotent=True,
            rollout={"steps": [{"weight": 0}, {"weight": 50}], "analysis": {"parity": {"shadowPercent": 10}}},
        ),
    ),
    Refused(
        "copies for a model that may have effects",
        a_model(rollout=_SHADOWED),
        "rollout.analysis.parity runs requests twice",
        a_model(rollout={**_SHADOWED, "analysis": {"parity": {"shadowPercent": 10, "allowSideEffects": True}}}),
    ),
    Refused(
        "a query that is judged by nothing",
        a_model(rollout=_asking()),
        "set maxValue, minValue or both",
        a_model(rollout=_asking(maxValue="0.5")),
    ),
    Refused(
        "an address with a password",
        a_model(rollout=_asking(address="http://me:secret@prometheus:9090", maxValue="1")),
        "without user or query",
        a_model(rollout=_asking(address="https://prometheus.monitoring:9090/a", maxValue="1")),
    ),
    Refused(
        "a tolerance that is no decimal",
        a_model(idempotent=True, rollout=_tolerated(tolerance="-1")),
        "expected a decimal in quotes",
        a_model(idempotent=True, rollout=_tolerated(tolerance="0.5", outputs=[{"name": "y", "relative": "0.1"}])),
    ),
    Refused(
        "a label that the operator sets",
        a_model(podMetadata={"labels": {"podium.dev/model": "mine"}}),
        "use a prefix of your own",
        a_model(podMetadata={"labels": {"team.example/model": "mine"}}),
    ),
    Refused(
        "a quantity that is none",
        a_model(resources={"limits": {"memory": "4 GB"}}),
        "expected a quantity such as 500m, 4Gi or 1",
        a_model(resources={"limits": {"memory": "4Gi", "cpu": 2}}),
    ),
    Refused(
        "a negative quantity",
        a_model(resources={"limits": {"cpu": -1}}),
        "expected a quantity such as 500m, 4Gi or 1",
        a_model(resources={"limits": {"cpu": 0}}),
    ),
    Refused(
        "a tolerance with a sign",
        a_model(smokeTest={"request": {"x": 1}, "tolerance": "-1"}),
        "expected a decimal in quotes",
        a_model(smokeTest={"request": {"x": 1}, "tolerance": "0.5"}),
    ),
    Refused(
        "a version with a space",
        a_model(version="my version"),
        "expected letters, digits and, between them",
        a_model(version="my-version_2+a.b"),
    ),
    Refused(
        "an entrypoint without an attribute",
        a_model(python={"entrypoint": "echo.Echo"}),
        "expected module:attribute",
        a_model(python={"entrypoint": "pkg.echo:Echo"}),
    ),
    Refused(
        "a member that is both",
        a_pipeline(
            models=[{"name": "m", "inline": a_definition(), "modelRef": {"name": "echo"}}],
            steps=[_step("one")],
            outputs=[{"name": "y", "from": "one.y"}],
        ),
        "exactly one of inline and modelRef",
        _graph([_step("one")]),
    ),
    Refused(
        "a member that is neither",
        a_pipeline(models=[{"name": "m"}], steps=[_step("one")], outputs=[{"name": "y", "from": "one.y"}]),
        "exactly one of inline and modelRef",
        a_pipeline(
            models=[{"name": "m", "modelRef": {"name": "echo"}}],
            steps=[_step("one")],
            outputs=[{"name": "y", "from": "one.y"}],
        ),
    ),
    Refused(
        "a step of an unknown model",
        _graph([_step("one", model="n")]),
        "a step calls a model that is not listed",
        _graph([_step("one")]),
    ),
    Refused(
        "a step called request",
        _graph([_step("one"), _step("request")]),
        "a step is named request",
        _graph([_step("one"), _step("requests")]),
    ),
    Refused(
        "an input from nowhere",
        _graph([_step("one", "two.y")]),
        "an input of a step comes from a step that does not exist",
        _graph([_step("one", "two.y"), _step("two")]),
    ),
    Refused(
        "an input from a step whose name only begins alike",
        _graph([_step("one", "two.y"), _step("twofold")]),
        "an input of a step comes from a step that does not exist",
        _graph([_step("one", "twofold.y"), _step("twofold")]),
    ),
    Refused(
        "an output from nowhere",
        _graph([_step("one")], output="two.y"),
        "an output comes from a step that does not exist",
        _graph([_step("one")]),
    ),
    Refused(
        "an input from two places",
        _graph([{**_step("one"), "inputs": [{"name": "x", "from": "request.x", "fromFirst": _TWO}]}]),
        "an input has both from and fromFirst",
        _graph([{**_step("one"), "inputs": [{"name": "x", "fromFirst": _TWO}]}]),
    ),
    Refused(
        "an alternative that names no value",
        _graph([{**_step("one"), "inputs": [{"name": "x", "fromFirst": ["request", "request.y"]}]}]),
        "fromFirst[0]",
        _graph([{**_step("one"), "inputs": [{"name": "x", "fromFirst": _TWO}]}]),
    ),
    Refused(
        "an output from two places",
        a_pipeline(outputs=[{"name": "embedding", "from": "encode.embedding", "fromFirst": _TWO}]),
        "an output takes exactly one of from and fromFirst",
        a_pipeline(outputs=[{"name": "embedding", "fromFirst": _TWO}]),
    ),
    Refused(
        "an output from no place",
        a_pipeline(outputs=[{"name": "embedding"}]),
        "an output takes exactly one of from and fromFirst",
        a_pipeline(),
    ),
    Refused(
        "a step with constants alone",
        _graph([{**_step("one"), "inputs": [{"name": "x", "value": True}]}]),
        "a step has constants alone",
        _graph([{**_step("one"), "inputs": [*_step("one")["inputs"], {"name": "z", "value": True}]}]),
    ),
    Refused(
        "a condition on nothing",
        _graph([{**_step("one"), "when": {"from": "two.y", "equals": 1}}]),
        "the condition of a step looks at a step that does not exist",
        _graph([{**_step("one"), "when": {"from": "request.y", "notEquals": 1}}]),
    ),
    Refused(
        "more alternatives than fit",
        _edges(224, _TWO),
        "the steps have more than 256 inputs together",
        _edges(96, _TWO),
    ),
    Refused(
        "a source that names no value",
        _graph([_step("one", "request")]),
        "expected request.<name> or <step>.<output>",
        _graph([_step("one", "request.x.y")]),
    ),
    Refused(
        "more edges than fit",
        _edges(256),
        "the steps have more than 256 inputs together",
        _edges(255 // 32 * 32),
    ),
    Refused(
        "more declarations than fit",
        _tensors(257),
        "the inline models declare more than 256 inputs and outputs together",
        _tensors(256),
    ),
    Refused(
        "a part above a whole GPU",
        _on_gpus("1.5", resources={"limits": {"nvidia.com/gpu": 2}}),
        "gpuFraction is a part of one GPU",
        _on_gpus("1.0"),
    ),
    Refused("no part of a GPU", _on_gpus("0"), "gpuFraction is a part of one GPU", _on_gpus("0.01")),
    Refused(
        "a part of a GPU for what runs on a CPU",
        _on_gpus("0.5", torch={"entrypoint": "m:build", "device": "Cpu"}),
        "gpuFraction is for what runs on a GPU",
        _on_gpus("0.5", torch={"entrypoint": "m:build", "device": "Cuda"}),
    ),
    Refused(
        "parts of all instances beyond the pod's GPUs",
        _on_gpus("0.4", instances=3),
        "is more than the pod has",
        _on_gpus("0.3", instances=3),
    ),
    Refused(
        "a part of a GPU in a pod without one",
        _on_gpus("0.5", resources={}),
        "is more than the pod has",
        _on_gpus("0.5", resources={}, replicas=0),
    ),
    Refused(
        "parts of members beyond the pod's GPUs",
        _shared_by("0.6", "0.5"),
        "is together more than the pod has",
        _shared_by("0.7", "0.3"),
    ),
)
