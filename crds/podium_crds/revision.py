"""Resource → immutable revision: three hashes, a name, and everything needed to serve it again later.

Pure. Why the resolved digest is beside the identity and not in it: docs/decisions/0002-revision-identity.md.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from podium_crds.assignment import (
    MAX_REVISION_BYTES,
    EngineKind,
    Graph,
    ResourceKind,
    ResourceRef,
    Step,
    StepCondition,
    StepInput,
)
from podium_crds.base import Digest, JsonObject, Lenient, canonical_json, json_bytes
from podium_crds.budgets import gpu_problems, memory_problems
from podium_crds.defaults import canonical
from podium_crds.errors import AssignmentTooLargeError, Problem, RecordError, ReferenceNotFoundError, ResourceError
from podium_crds.fields import LOAD_FIELDS, SHAPE_FIELDS, TUNING_FIELDS, UNHASHED_FIELDS
from podium_crds.graph import Contract, check_graph
from podium_crds.model import InferenceModel, ModelDefinition
from podium_crds.parse import Resource
from podium_crds.pipeline import InferencePipeline, InferencePipelineSpec, Placement
from podium_crds.referenced import called_contract
from podium_crds.serving import ServingSpec

HASH_VERSION = 1
"""Raised when the same spec would hash differently. A record keeps the version it was made with."""

RECORD_VERSION = 1

_GRAPH_FIELDS = frozenset({"steps", "outputs"})
_STEP_TUNING = ("timeoutSeconds", "retries")


class Hashes(Lenient):
    """The identity of a revision, in the three parts that need different work to change."""

    version: int = HASH_VERSION
    shape: str
    load: str
    tuning: str


class MemberRecord(Lenient):
    """One model of a revision with all it takes to load it again."""

    name: str
    definition: ModelDefinition
    load_hash: str
    remote: str | None = None
    """Name of the InferenceModel whose own pods are called. The definition holds its contract alone then."""
    files: dict[str, str] | None = None
    """Content of a configmap:// source at the time the revision was made, by file name."""


class RevisionRecord(Lenient):
    """An immutable version of a resource, as kept in ControllerRevision.data."""

    record_version: int = RECORD_VERSION
    name: Annotated[str, Field(max_length=63)]
    """`<resource>-<10 hex>`: the same spec has the same name."""
    resource: ResourceRef
    version: str
    hashes: Hashes
    image: str
    """Runtime image, pinned: an operator with another default keeps this one until the shape changes."""
    template_version: int = 1
    """Version of the operator's pod builder, pinned like the image."""
    serving: ServingSpec
    """The pod fields of the spec. `replicas`, `suspend`, `podMetadata`, `rollout` and `exposure.gateway` are at their
    defaults: they make no revision and are read from the live object."""
    members: tuple[MemberRecord, ...]
    graph: Graph | None = None
    digests: dict[str, Digest] = Field(default_factory=dict)
    """What sources resolved to, by member name. Beside the identity, not part of it."""

    def to_data(self) -> JsonObject:
        """The JSON object for ControllerRevision.data."""
        return self.wire()

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "RevisionRecord":
        """The record that `to_data` wrote, by this release or an earlier one. Raises RecordError."""
        if data.get("recordVersion") != RECORD_VERSION:
            raise RecordError(
                f"a stored revision has recordVersion {data.get('recordVersion')}, known: {RECORD_VERSION}"
            )
        try:
            return cls.model_validate_json(canonical_json(data), strict=True)
        except ValidationError as error:
            raise RecordError(f"a stored revision cannot be read: {error}") from error

    def member(self, name: str) -> MemberRecord | None:
        """The member of that name, or None."""
        return next((member for member in self.members if member.name == name), None)

    def with_digests(self, resolved: Mapping[str, str]) -> "RevisionRecord":
        """This record with digests pinned for members that had none; what is pinned already stays."""
        return self.model_copy(update={"digests": {**resolved, **self.digests}})

    def pinned_like(self, previous: "RevisionRecord") -> "RevisionRecord":
        """This record on the image and template of `previous` where the shape is the same, so that pods are kept."""
        if self.hashes.shape != previous.hashes.shape or self.hashes.version != previous.hashes.version:
            return self
        return self.model_copy(update={"image": previous.image, "template_version": previous.template_version})


@dataclass(frozen=True, slots=True)
class References:
    """Names of the other objects that a resource needs to become a revision, and that its pods mount."""

    models: frozenset[str]
    configmaps: frozenset[str]
    """ConfigMaps of sources written in this resource. A referenced model has its own `references`."""
    secrets: frozenset[str]


def references(resource: Resource) -> References:
    """What to fetch (models, configmaps) before `revision_of`, and whose changes to watch."""
    definitions = _inline_definitions(resource)
    return References(
        models=frozenset(_model_references(resource).values()),
        configmaps=frozenset(name for d in definitions if (name := _configmap(d.source.uri)[0])),
        secrets=frozenset(d.source.credentials_secret_ref.name for d in definitions if d.source.credentials_secret_ref),
    )


def revision_of(
    resource: Resource,
    models: Mapping[str, "InferenceModel | RevisionRecord"],
    *,
    configmaps: Mapping[str, Mapping[str, str]],
    image: str,
    template_version: int = 1,
) -> RevisionRecord:
    """The revision that the spec of `resource` asks for.

    `models` holds what `modelRef`s name: the promoted revision of a model that runs its own pods, else the model
    itself. `configmaps` holds the data of the ConfigMaps in `references`, also of models given as such. `image` is used
    where the spec names none; keep that of an earlier record with `pinned_like`.
    Raises ResourceError for a graph that cannot run, ReferenceNotFoundError for what is not in the mappings, and
    AssignmentTooLargeError for a revision of which two would not fit one assignment: it could never be swapped.
    """
    members, digests = _members(resource, models, configmaps)
    _check_budgets(resource, models, members)
    members = _apart_from_sharers(members)
    graph = graph_of(resource.spec) if isinstance(resource, InferencePipeline) else None
    if graph is not None:
        _check(resource, graph, members)
    hashes = _hashes(resource, members)
    record = RevisionRecord(
        name=_name(resource.metadata.name, hashes),
        resource=ResourceRef(
            kind=ResourceKind(resource.kind), namespace=resource.metadata.namespace, name=resource.metadata.name
        ),
        version=resource.spec.version,
        hashes=hashes,
        image=resource.spec.runtime.image or image,
        template_version=template_version,
        serving=_serving(resource.spec),
        members=members,
        graph=graph,
        digests=digests,
    )
    loaded = {"members": [member.wire() for member in members], "graph": graph.wire() if graph else None}
    if (size := json_bytes(loaded)) > MAX_REVISION_BYTES:
        raise AssignmentTooLargeError(f"{resource.kind} {resource.metadata.name}", size, MAX_REVISION_BYTES)
    return record


def graph_of(spec: InferencePipelineSpec) -> Graph:
    """The graph of a pipeline as an assignment carries it, unchecked."""
    return Graph(
        steps=tuple(
            Step(
                name=step.name,
                model=step.model,
                inputs=tuple(
                    StepInput(name=edge.name, source=edge.source, from_first=edge.from_first, value=edge.value)
                    for edge in step.inputs
                ),
                when=StepCondition.model_validate(step.when.wire()) if step.when else None,
                timeout_seconds=step.timeout_seconds,
                retries=step.retries,
            )
            for step in spec.steps
        ),
        outputs=tuple(
            StepInput(name=edge.name, source=edge.source, from_first=edge.from_first) for edge in spec.outputs
        ),
    )


def _check(resource: Resource, graph: Graph, members: tuple[MemberRecord, ...]) -> None:
    contracts = {m.name: Contract(inputs=m.definition.inputs, outputs=m.definition.outputs) for m in members}
    problems = [fault.problem() for fault in check_graph(graph, contracts)]
    problems += [
        Problem(
            f"spec.models[{member.name}]",
            "engine VLLM takes no named tensors, which are what a pipeline moves: "
            "serve it as an InferenceModel, and ask that",
        )
        for member in members
        if member.definition.engine is EngineKind.VLLM
    ]
    if problems:
        raise ResourceError(f"{resource.kind} {resource.metadata.name}", tuple(problems))


def _check_budgets(
    resource: Resource, models: Mapping[str, "InferenceModel | RevisionRecord"], members: tuple[MemberRecord, ...]
) -> None:
    """Raises ResourceError where the members of one pod want more of it than there is. A model without pods of its own,
    for pipelines alone, is judged in theirs."""
    if isinstance(resource, InferenceModel) and resource.spec.replicas == 0:
        return
    here = {member.name: member for member in members if member.remote is None}
    path = "spec.models" if isinstance(resource, InferencePipeline) else "spec.gpuFraction"
    problems = gpu_problems({name: m.definition for name, m in here.items()}, resource.spec.resources, path)
    referenced = [
        (name, found.spec.resources if isinstance(found, InferenceModel) else found.serving.resources)
        for name, model in _model_references(resource).items()
        if name in here and (found := models.get(model)) is not None
    ]
    problems += memory_problems(referenced, resource.spec.resources, path)
    if problems:
        raise ResourceError(f"{resource.kind} {resource.metadata.name}", tuple(problems))


def _apart_from_sharers(members: tuple[MemberRecord, ...]) -> tuple[MemberRecord, ...]:
    """Beside members that share GPUs by parts, one without a part is loaded otherwise: on the CPU."""
    if all(member.definition.gpu_fraction is None for member in members):
        return members
    return tuple(
        member
        if member.definition.gpu_fraction is not None or member.remote is not None
        else member.model_copy(update={"load_hash": _digest({"member": member.load_hash, "gpu": None})})
        for member in members
    )


def _inline_definitions(resource: Resource) -> list[ModelDefinition]:
    if isinstance(resource, InferenceModel):
        return [resource.spec]
    return [member.inline for member in resource.spec.models if member.inline is not None]


def _model_references(resource: Resource) -> dict[str, str]:
    if isinstance(resource, InferenceModel):
        return {}
    return {member.name: member.model_ref.name for member in resource.spec.models if member.model_ref is not None}


def _members(
    resource: Resource,
    models: Mapping[str, "InferenceModel | RevisionRecord"],
    configmaps: Mapping[str, Mapping[str, str]],
) -> tuple[tuple[MemberRecord, ...], dict[str, Digest]]:
    if isinstance(resource, InferenceModel):
        path = "spec.source.uri"
        return (_member(resource.metadata.name, resource.spec, configmaps, path),), {}
    members: list[MemberRecord] = []
    digests: dict[str, Digest] = {}
    for member in resource.spec.models:
        path = f"spec.models[{member.name}]"
        if member.inline is not None:
            members.append(_member(member.name, member.inline, configmaps, f"{path}.inline.source.uri"))
            continue
        assert member.model_ref is not None, "checked by the rules"
        reference = models.get(member.model_ref.name)
        match reference:
            case None:
                raise ReferenceNotFoundError(f"{path}.modelRef.name", "InferenceModel", member.model_ref.name)
            case _ if resource.spec.placement is Placement.REFERENCED:
                members.append(_remote_member(member.name, member.model_ref.name, reference, f"{path}.modelRef.name"))
            case InferenceModel():
                members.append(_member(member.name, reference.spec, configmaps, f"{path}.modelRef.name"))
            case RevisionRecord():
                members.append(reference.members[0].model_copy(update={"name": member.name}))
                if pinned := reference.digests.get(reference.members[0].name):
                    digests[member.name] = pinned
    return tuple(members), digests


def _remote_member(name: str, model: str, reference: "InferenceModel | RevisionRecord", path: str) -> MemberRecord:
    """A member in other pods. See `called_contract`."""
    if isinstance(reference, InferenceModel):
        contract = called_contract(model, reference.spec, reference.spec.exposure, path)
    else:
        contract = called_contract(model, reference.members[0].definition, reference.serving.exposure, path)
    told = {"remote": model, "contract": canonical(contract, frozenset({"inputs", "outputs"}))}
    return MemberRecord(name=name, definition=contract, load_hash=_digest(told), remote=model, files={})


def _member(
    name: str, definition: ModelDefinition, configmaps: Mapping[str, Mapping[str, str]], path: str
) -> MemberRecord:
    # A spec is a definition and more: keep the definition alone.
    alone = ModelDefinition.model_validate(
        {field: getattr(definition, field) for field in ModelDefinition.model_fields}, from_attributes=True
    )
    files = _files(alone.source.uri, configmaps, path)
    return MemberRecord(name=name, definition=alone, load_hash=_member_load(alone, files), files=files)


def _configmap(uri: str) -> tuple[str | None, str]:
    if not uri.startswith("configmap://"):
        return None, ""
    name, _, prefix = uri.removeprefix("configmap://").partition("/")
    return name, prefix


def _files(uri: str, configmaps: Mapping[str, Mapping[str, str]], path: str) -> dict[str, str] | None:
    name, prefix = _configmap(uri)
    if name is None:
        return None
    if name not in configmaps:
        raise ReferenceNotFoundError(path, "ConfigMap", name)
    files = {key: text for key, text in sorted(configmaps[name].items()) if key.startswith(prefix)}
    if not files:
        key = f"a key that begins with {prefix!r}" if prefix else "any key"
        why = "binaryData is not read: binary files belong into an artifact store"
        raise ReferenceNotFoundError(path, "ConfigMap", f"{name} with text under {key} of its data ({why})")
    return files


def _serving(spec: ServingSpec) -> ServingSpec:
    kept = {field: getattr(spec, field) for field in ServingSpec.model_fields if field not in UNHASHED_FIELDS}
    return ServingSpec.model_validate({**kept, "exposure": spec.exposure.model_copy(update={"gateway": None})})


def _member_load(definition: ModelDefinition, files: Mapping[str, str] | None) -> str:
    part = canonical(definition, LOAD_FIELDS)
    part["source"] = {key: value for key, value in part["source"].items() if key != "credentialsSecretRef"}
    return _digest({"definition": part, "files": files})


def _hashes(resource: Resource, members: tuple[MemberRecord, ...]) -> Hashes:
    secrets = {
        m.definition.source.credentials_secret_ref.name for m in members if m.definition.source.credentials_secret_ref
    }
    loads = {member.name: member.load_hash for member in members}
    tunings = {member.name: canonical(member.definition, TUNING_FIELDS) for member in members}
    graph = canonical(resource.spec, _GRAPH_FIELDS) if isinstance(resource, InferencePipeline) else {}
    steps = graph.get("steps", [])
    return Hashes(
        shape=_digest({"pod": canonical(resource.spec, SHAPE_FIELDS), "secrets": sorted(secrets)}),
        load=_digest(
            {
                "kind": resource.kind,
                "version": resource.spec.version,
                "members": loads,
                "steps": [{key: step[key] for key in step if key not in _STEP_TUNING} for step in steps],
                "outputs": graph.get("outputs", []),
            }
        ),
        tuning=_digest(
            {
                "resource": canonical(resource.spec, TUNING_FIELDS),
                "members": tunings,
                "steps": {step["name"]: {key: step.get(key) for key in _STEP_TUNING} for step in steps},
            }
        ),
    )


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def _name(resource: str, hashes: Hashes) -> str:
    return f"{resource}-{_digest([hashes.version, hashes.shape, hashes.load, hashes.tuning])[:10]}"
