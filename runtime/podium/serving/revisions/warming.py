"""Gates between loaded and ready: warm-up requests, a check of the declared outputs, and the smoke test."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from podium.batching.lengths import InUse
from podium.errors import ContractBreach, InvalidInput, ModelError, PodiumError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.revisions.contract import Contract, described, disagreement
from podium.serving.revisions.errors import RevisionFailedError
from podium.serving.revisions.named_tensors import bytes_elements, parse_tensor, parse_tensors
from podium.serving.revisions.stream_warming import first_chunks, whole_answer
from podium.serving.revisions.synthesis import batches
from podium.telemetry.logging import get_logger
from podium_crds.assignment import Member, Probe
from podium_crds.reasons import Reason
from podium_crds.tensors import DType, TensorSpec

log = get_logger(__name__)

LENGTHS_SHARE = 0.5
"""Part of the time for warm-up after which no batch of a length in use is begun: it is no reason to fail."""


async def warm_up(member: Member, group: WorkerGroup, in_use: InUse = InUse()) -> None:  # noqa: B008 - frozen
    """Sends each warm-up request to every instance, else synthesized batches (podium.serving.revisions.synthesis).
    `in_use`: what batches of the model have at present.

    Raises RevisionFailedError: WarmupFailed for a declared request that fails or a worker that dies, ContractMismatch
    for outputs that are not what the resource declares. A model that only refuses a synthesized batch is not judged.
    """
    contract = Contract.of_member(member)
    try:
        async with asyncio.timeout(member.warmup_timeout_seconds):
            warmed = [_inputs(probe, contract) for probe in member.warmup]
            for inputs in warmed:
                await _on_every_instance(member, group, inputs, Reason.WARMUP_FAILED)
            if not member.warmup and member.inputs:
                warmed = await _synthesized(member, group, in_use)
            if group.infers:
                group.set_warm_up(warmed)
    except TimeoutError as error:
        raise RevisionFailedError(
            Reason.WARMUP_FAILED, f"warm-up of {member.name} took longer than {member.warmup_timeout_seconds} s"
        ) from error
    except InvalidInput as error:
        raise RevisionFailedError(Reason.WARMUP_FAILED, f"warm-up request of {member.name}: {error}") from error


async def smoke_test(member: Member, group: WorkerGroup) -> None:
    """Sends the smoke request once and compares what is expected. Raises RevisionFailedError(SmokeTestFailed)."""
    probe = member.smoke_test
    if probe is None:
        return
    contract = Contract.of_member(member)
    try:
        async with asyncio.timeout(member.warmup_timeout_seconds):
            outputs = await _infer(group, _inputs(probe, contract), "smoke-test", member)
    except (PodiumError, TimeoutError) as error:
        message = f"smoke test of {member.name}: {error or 'timed out'}"
        raise RevisionFailedError(Reason.SMOKE_TEST_FAILED, message) from error
    try:
        _compare(member, contract, probe, outputs)
    finally:
        _release(outputs)


async def _synthesized(member: Member, group: WorkerGroup, in_use: InUse) -> list[dict[str, Tensor]]:
    """Returns the batches that a restarted worker runs on too: those that the model took, without the lengths in use,
    for which requests would have to wait."""
    taken: list[dict[str, Tensor]] = []
    clock = asyncio.get_running_loop().time
    due = clock() + LENGTHS_SHARE * member.warmup_timeout_seconds
    for batch in batches(member, in_use):
        if batch.has_lengths and clock() >= due:
            log.info("lengths_left_out_of_warm_up", member=member.name, share=LENGTHS_SHARE)
            break
        try:
            await _on_every_instance(member, group, batch.inputs, Reason.WARMUP_FAILED)
        except RevisionFailedError as error:
            if error.reason is Reason.CONTRACT_MISMATCH or not isinstance(error.__cause__, ModelError | InvalidInput):
                raise
            shapes = {name: list(tensor.shape) for name, tensor in batch.inputs.items()}
            log.warning("synthesized_warm_up_refused", member=member.name, shapes=shapes, problem=str(error))
            break
        if not batch.has_lengths:
            taken.append(batch.inputs)
    return taken


async def _on_every_instance(member: Member, group: WorkerGroup, inputs: Mapping[str, Tensor], reason: Reason) -> None:
    """Each instance answers by itself, at the lowest weight that a group has on its device."""
    deadline = asyncio.get_running_loop().time() + member.warmup_timeout_seconds
    results: Sequence[dict[str, Tensor] | BaseException]
    if group.infers:
        with group.behind():
            results = await group.infer_on_each(inputs, request_id="warm-up", deadline=deadline)
    else:
        results = await first_chunks(group, inputs, member.instances, deadline)
    for result in results:
        if isinstance(result, ContractBreach):
            raise RevisionFailedError(Reason.CONTRACT_MISMATCH, f"{member.name}: {result}") from result
        if isinstance(result, PodiumError):
            raise RevisionFailedError(reason, f"warm-up of {member.name}: {result}") from result
        if isinstance(result, BaseException):
            raise result
        try:
            # A chunk may carry some of the outputs only.
            _check_outputs(member, [spec for spec in member.outputs if group.infers or spec.name in result], result)
        finally:
            _release(result)


async def _infer(
    group: WorkerGroup, inputs: Mapping[str, Tensor], request_id: str, member: Member
) -> dict[str, Tensor]:
    deadline = asyncio.get_running_loop().time() + member.warmup_timeout_seconds
    if not group.infers:
        return await whole_answer(group, inputs, deadline)
    return await group.infer(inputs, request_id=request_id, deadline=deadline)


def _check_outputs(member: Member, expected: Sequence[TensorSpec], outputs: Mapping[str, Tensor]) -> None:
    for spec in expected:
        tensor = outputs.get(spec.name)
        if tensor is None and spec.optional:
            continue
        problem = "nothing" if tensor is None else disagreement(spec, tensor)
        if problem:
            message = f"{member.name} returned {problem} for {spec.name}; expected {described(spec)}"
            raise RevisionFailedError(Reason.CONTRACT_MISMATCH, message)


def _inputs(probe: Probe, contract: Contract) -> dict[str, Tensor]:
    return parse_tensors(dict(probe.inputs), contract)


def _compare(member: Member, contract: Contract, probe: Probe, outputs: Mapping[str, Tensor]) -> None:
    for name, wanted in (probe.expect or {}).items():
        actual = outputs.get(name)
        if actual is None:
            raise _smoke_failed(member, f"returned no {name}, only {', '.join(sorted(outputs)) or 'nothing'}")
        expected = _expected(member, name, wanted, contract.outputs.get(name) or _spec_like(name, actual))
        if difference := _difference(actual, expected, probe.tolerance):
            raise _smoke_failed(member, f"{name} {difference}")


def _expected(member: Member, name: str, wanted: Any, spec: TensorSpec) -> Tensor:
    try:
        return parse_tensor(name, wanted, spec)
    except InvalidInput as error:
        raise _smoke_failed(member, f"expectation cannot be read: {error}") from error


def _spec_like(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=name, dtype=tensor.dtype, shape=(-1,) * max(1, len(tensor.shape)))


def _difference(actual: Tensor, expected: Tensor, tolerance: float) -> str | None:
    if actual.shape != expected.shape:
        return f"has shape {list(actual.shape)}, expected {list(expected.shape)}"
    if actual.dtype is DType.BYTES:
        same = list(bytes_elements(actual)) == list(bytes_elements(expected))
        return None if same else "differs from the expected text"
    left, right = actual.array().astype("f8"), expected.array().astype("f8")
    if np.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True):
        return None
    return f"differs by up to {float(np.nanmax(np.abs(left - right))):.6g}, tolerance {tolerance:g}"


def _smoke_failed(member: Member, what: str) -> RevisionFailedError:
    return RevisionFailedError(Reason.SMOKE_TEST_FAILED, f"smoke test of {member.name}: {what}")


def _release(outputs: Mapping[str, Tensor]) -> None:
    for tensor in outputs.values():
        tensor.release()
