"""Revision records → the assignment a pod is given. Pure; the operator and `podium serve` call the same functions."""

from collections.abc import Mapping, Sequence

from podium_crds.assignment import (
    MAX_ASSIGNMENT_BYTES,
    Artifact,
    Assignment,
    Batching,
    DrainPolicy,
    EngineSpec,
    Generation,
    Member,
    Probe,
    RemoteModel,
    ResourceRef,
    Revision,
    TrafficTarget,
)
from podium_crds.base import json_bytes
from podium_crds.budgets import gpu_places
from podium_crds.engines import OnnxEngine, TorchEngine
from podium_crds.errors import AssignmentTooLargeError, RecordError
from podium_crds.keys import CREDENTIALS_DIR
from podium_crds.model import ModelDefinition, Source
from podium_crds.revision import MemberRecord, RevisionRecord
from podium_crds.rollout import RolloutSpec
from podium_crds.vllm import VllmEngine


def credentials_path(secret: str) -> str:
    """Where a pod mounts the Secret of that name with the access keys of a store."""
    return f"{CREDENTIALS_DIR}/{secret}"


def compile_revision(
    record: RevisionRecord, digests: Mapping[str, str] | None = None, *, load_timeout_seconds: int = 600
) -> Revision:
    """The revision as a pod loads it. `digests` by member name pins what the record does not pin yet."""
    pinned = {**(digests or {}), **record.digests}
    timeout = record.serving.timeout_seconds
    here = {member.name: member.definition for member in record.members if member.remote is None}
    places = gpu_places(here, record.serving.resources)
    return Revision(
        name=record.name,
        version=record.version,
        members=tuple(
            _remote_member(member, record.resource.namespace)
            if member.remote is not None
            else _with_gpus(_member(member, pinned.get(member.name), timeout, load_timeout_seconds), member, places)
            for member in record.members
        ),
        graph=record.graph,
        timeout_seconds=timeout,
    )


def compile_assignment(  # noqa: PLR0913 (one keyword for each field of the assignment that is not compiled)
    resource_ref: ResourceRef,
    records: Sequence[RevisionRecord],
    *,
    promoted: str | None,
    warm: Sequence[str] = (),
    traffic: Mapping[str, int] | None = None,
    generation: Generation,
    pool: str = "",
    drain: DrainPolicy | None = None,
    load_timeout_seconds: int = 600,
) -> Assignment:
    """The assignment that holds the promoted, the warm and the traffic-taking revisions among `records`.

    `traffic` maps revision names to weights that sum to 100; None: all of it to `promoted`, if there is one. A revision
    that is neither warm nor takes traffic is left out. Raises RecordError where a name has no record, and
    AssignmentTooLargeError above 512 KiB.
    """
    weights = dict(traffic) if traffic is not None else ({promoted: 100} if promoted else {})
    assert not weights or sum(weights.values()) == 100, f"weights sum to {sum(weights.values())}, not 100"
    known = {record.name: record for record in records}
    names = dict.fromkeys([*([promoted] if promoted else []), *weights, *warm])
    if missing := [name for name in names if name not in known]:
        raise RecordError(f"there is no record of revision {', '.join(missing)}")
    assignment = Assignment(
        generation=generation,
        resource=resource_ref,
        pool=pool,
        revisions=tuple(compile_revision(known[name], load_timeout_seconds=load_timeout_seconds) for name in names),
        traffic=tuple(TrafficTarget(revision=name, weight=weight) for name, weight in weights.items()),
        promoted=promoted,
        drain=drain or DrainPolicy(),
    )
    if (size := json_bytes(assignment.wire())) > MAX_ASSIGNMENT_BYTES:
        raise AssignmentTooLargeError(f"the assignment of {resource_ref.name}", size, MAX_ASSIGNMENT_BYTES)
    return assignment


def drain_policy(rollout: RolloutSpec) -> DrainPolicy:
    """The part of the rollout knobs that pods need."""
    return DrainPolicy(
        propagation_seconds=rollout.propagation_seconds,
        drain_timeout_seconds=rollout.drain_timeout_seconds,
        restart_grace_seconds=rollout.restart_grace_seconds,
    )


def service_url(model: str, namespace: str) -> str:
    """Where an InferenceModel's ready pods are reached in the cluster."""
    return f"http://{model}.{namespace}.svc"


def _remote_member(member: MemberRecord, namespace: str) -> Member:
    assert member.remote is not None, "a member in other pods"
    return Member(
        name=member.name,
        load_hash=member.load_hash,
        version=member.definition.version,
        artifact=Artifact(files={}),
        engine=EngineSpec(kind=member.definition.engine),
        inputs=member.definition.inputs,
        outputs=member.definition.outputs,
        idempotent=member.definition.idempotent,
        remote=RemoteModel(url=service_url(member.remote, namespace), model=member.remote),
    )


def _member(member: MemberRecord, digest: str | None, timeout: int, load_timeout: int) -> Member:
    model = member.definition
    return Member(
        name=member.name,
        load_hash=member.load_hash,
        version=model.version,
        artifact=_artifact(model.source, digest, member.files),
        engine=_engine(model),
        inputs=model.inputs,
        outputs=model.outputs,
        batching=Batching.model_validate(model.batching.model_dump()),
        instances=model.instances,
        idempotent=model.idempotent,
        hang_timeout_seconds=model.hang_timeout_seconds,
        timeout_seconds=timeout,
        load_timeout_seconds=load_timeout,
        warmup=tuple(Probe(inputs=request) for request in model.warmup.requests),
        warmup_timeout_seconds=model.warmup.timeout_seconds,
        smoke_test=_smoke_test(model),
        trust_remote_code=model.vllm is not None and model.vllm.trust_remote_code,
    )


def _with_gpus(compiled: Member, member: MemberRecord, places: Mapping[str, tuple[int, ...]]) -> Member:
    """Where members share GPUs by parts: its own places, or none for a member without a part."""
    part = member.definition.gpu_fraction
    if part is not None:
        return compiled.model_copy(update={"gpu_fraction": float(part), "gpu_places": places.get(member.name, ())})
    return (
        compiled.model_copy(update={"engine": compiled.engine.model_copy(update={"device": "Cpu"})})
        if places
        else compiled
    )


def _artifact(source: Source, digest: str | None, files: dict[str, str] | None) -> Artifact:
    if files is not None:
        return Artifact(files=files)
    secret = source.credentials_secret_ref
    return Artifact(
        uri=source.uri,
        digest=source.digest or digest,
        credentials_path=credentials_path(secret.name) if secret else None,
    )


def _engine(model: ModelDefinition) -> EngineSpec:
    options = model.options
    if isinstance(options, TorchEngine):
        return _torch(model, options)
    if isinstance(options, OnnxEngine):
        return EngineSpec(
            kind=model.engine,
            file=options.file,
            device=options.device,
            threads=options.threads,
            optimization=options.optimization,
            spinning=options.spinning,
        )
    if isinstance(options, VllmEngine):
        return EngineSpec(
            kind=model.engine, device=options.device, threads=options.threads, parameters=options.engine_args
        )
    return EngineSpec(
        kind=model.engine, entrypoint=options.entrypoint, threads=options.threads, parameters=options.parameters
    )


def _torch(model: ModelDefinition, options: TorchEngine) -> EngineSpec:
    formats = {"ExportedProgram": options.exported_program, "TorchScript": options.torch_script}
    chosen = next((name for name, file in formats.items() if file is not None), None)
    return EngineSpec(
        kind=model.engine,
        entrypoint=options.entrypoint or "",
        file=formats[chosen] if chosen else None,
        format=chosen,
        dtype=options.dtype,
        device=options.device,
        compile=options.compile,
        threads=options.threads,
        parameters=options.parameters,
    )


def _smoke_test(model: ModelDefinition) -> Probe | None:
    test = model.smoke_test
    return Probe(inputs=test.request, expect=test.expect, tolerance=float(test.tolerance)) if test else None
