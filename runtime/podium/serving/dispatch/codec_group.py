"""`CodecGroup`: the worker that runs a model's own codecs, beside the workers that run the model.

A process of its own: what a hostile body does to a codec costs neither the model's weights nor a request that is in its
hands, and a long body is read while the model works.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from podium.errors import ModelError, RequestError
from podium.ipc.bootstrap import Role
from podium.ipc.codec_job import BODY, DECODE, ENCODE, ERROR, JOB, TYPE, Problem
from podium.ipc.protocol import OwnForms
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.workers.pod import PodResources
from podium_crds.assignment import Batching, Member
from podium_crds.tensors import DType

HANG_TIMEOUT_S = 10
"""No body takes a sound codec so long; others wait for it meanwhile."""


class UnreadableBodyError(RequestError):
    """The model's own codec could not read the body. Its message says why."""


class DecodedTooLargeError(RequestError):
    """What the body stands for is larger than a request may be."""


class CodecGroup:
    """Reads and writes bodies of one model's own content types. Used from one event loop."""

    def __init__(self, group: WorkerGroup, forms: OwnForms) -> None:
        """Use `start`."""
        self._group = group
        self.decodes = frozenset(forms.decodes)
        """Content types that it reads."""
        self.encodes = frozenset(forms.encodes)
        """Content types that it writes."""

    @classmethod
    async def start(
        cls, member: Member, artifact_dir: Path, forms: OwnForms, pod: PodResources, *, to_serve: asyncio.Event
    ) -> Self:
        """Starts the worker. Raises WorkerLoadError."""
        group = await WorkerGroup.start(
            _codec_member(member), artifact_dir, pod=pod, to_serve=to_serve, role=Role.CODECS
        )
        return cls(group, forms)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of its worker; none between two lives."""
        return self._group.stats().pids

    def promote(self) -> None:
        """As WorkerGroup.promote."""
        self._group.promote()

    async def stop(self, grace_s: float) -> None:
        """As WorkerGroup.stop."""
        await self._group.stop(grace_s)

    async def decode(self, content_type: bytes, body: Tensor, request_id: str, deadline: float) -> dict[str, Tensor]:
        """The model's inputs in a body (UINT8 `[bytes]`), leased to the caller; not checked against its contract.

        Raises UnreadableBodyError, DecodedTooLargeError, and as WorkerGroup.infer.
        """
        return await self._run({JOB: _scalar(DECODE), TYPE: _scalar(content_type), BODY: body}, request_id, deadline)

    async def encode(self, media_type: bytes, outputs: Mapping[str, Tensor], request_id: str, deadline: float) -> bytes:
        """The outputs as a body of that type. Borrows them. Raises as WorkerGroup.infer."""
        job = {JOB: _scalar(ENCODE), TYPE: _scalar(media_type), **outputs}
        answer = await self._run(job, request_id, deadline)
        try:
            return bytes(answer[BODY].data)
        finally:
            for tensor in answer.values():
                tensor.release()

    async def _run(self, job: Mapping[str, Tensor], request_id: str, deadline: float) -> dict[str, Tensor]:
        answer = await self._group.infer(job, request_id=request_id, deadline=deadline)
        error = answer.get(ERROR)
        if error is None:
            return answer
        kind, message = (str(part, "utf-8", "replace") for part in error.array().reshape(-1).tolist())
        for tensor in answer.values():
            tensor.release()
        match Problem(kind):
            case Problem.REFUSED:
                raise UnreadableBodyError(message)
            case Problem.TOO_LARGE:
                raise DecodedTooLargeError(message)
            case Problem.BROKEN:
                raise ModelError(message)


def _scalar(value: bytes) -> Tensor:
    """One BYTES element without a dimension: what has such an input shares a batch with nothing."""
    return Tensor(DType.BYTES, (), memoryview(len(value).to_bytes(4, "little") + value))


def _codec_member(member: Member) -> Member:
    """What the worker of the codecs is told: the model's code, on one thread of the CPU, one body at a time."""
    engine = member.engine.model_copy(update={"device": "Cpu", "threads": 1})
    queue = Batching(max_batch_size=1, max_queue_size=member.batching.max_queue_size, priority=member.batching.priority)
    return member.model_copy(
        update={
            "name": f"{member.name[:50]}-codecs",
            "engine": engine,
            "inputs": (),
            "outputs": (),
            "batching": queue,
            "instances": 1,
            "idempotent": False,
            "hang_timeout_seconds": min(HANG_TIMEOUT_S, member.timeout_seconds),
            "warmup": (),
            "smoke_test": None,
        }
    )
