"""Walks a graph: every step starts as soon as its inputs are there, independent steps run at once.

A step whose `when` does not hold is skipped, and so is every step that reads from a skipped one; outputs of skipped
steps are left out of the answer. The first failure cancels the other steps and is raised, naming its step.
"""

import asyncio
import random
from collections.abc import Awaitable, Mapping
from typing import Protocol

from podium.graph.errors import BranchConditionError, StepError
from podium.graph.plan import GraphPlan, PlannedStep, ValueRef
from podium.graph.values import Values
from podium.ipc.tensor import Tensor
from podium.telemetry.timeline import CURRENT, Stage
from podium_crds.assignment import StepCondition
from podium_crds.tensors import DType

RETRY_BACKOFF_S = 0.05
MAX_CONDITION_BYTES = 64 * 1024
BYTES_PREFIX = 4
"""An element of a BYTES tensor is preceded by its length, as four little-endian bytes."""


class Invoke(Protocol):
    """How the executor calls the model of a step."""

    def __call__(self, member: str, inputs: Mapping[str, Tensor], deadline: float) -> Awaitable[dict[str, Tensor]]:
        """Outputs of the member, leased to the caller. `deadline`: monotonic seconds."""

    def may_retry(self, member: str, error: Exception) -> bool:
        """Whether a step that ended with `error` may run again without harm."""

    def ended(self, step: str, seconds: float) -> None:
        """A step has ended, well or not, with all its attempts."""


async def execute(plan: GraphPlan, request: Mapping[str, Tensor], invoke: Invoke, deadline: float) -> dict[str, Tensor]:
    """Outputs of the graph for one request, leased to the caller.

    `request` is borrowed for the whole call. Raises StepError (with the member's own error as cause),
    MissingOutputError or BranchConditionError.
    """
    run = _Run(plan, request, invoke, deadline)
    try:
        await run.walk()
        return run.outputs()
    finally:
        run.values.release_all()


class _Run:
    def __init__(self, plan: GraphPlan, request: Mapping[str, Tensor], invoke: Invoke, deadline: float) -> None:
        self.values = Values(plan, request)
        self._plan = plan
        self._request = request
        self._invoke = invoke
        self._deadline = deadline
        self._waiting = {name: set(planned.needs) for name, planned in plan.steps.items()}
        self._skipped: set[str] = set()
        self._running: set[asyncio.Task[str]] = set()

    async def walk(self) -> None:
        """Runs every step that the request calls for."""
        ready = self._take_ready()
        try:
            while ready or self._running:
                if len(ready) == 1 and not self._running:  # a chain needs no task of its own
                    ended = [await self._run_step(ready[0])]
                else:
                    self._running.update(asyncio.create_task(self._run_step(name)) for name in ready)
                    ended = await self._some_end()
                for name in ended:
                    self._end(name)
                ready = self._take_ready()
        finally:
            await self._cancel_running()

    async def _some_end(self) -> list[str]:
        done, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task.exception()]
        if failed:
            raise failed[0].exception() or AssertionError("a failed task has an exception")
        return [task.result() for task in done]

    async def _cancel_running(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _take_ready(self) -> list[str]:
        """Steps that can start now; those that must be skipped end on the way."""
        ready = []
        while free := [name for name, needs in self._waiting.items() if not needs]:
            for name in free:
                del self._waiting[name]
                if self._is_wanted(self._plan.steps[name]):
                    ready.append(name)
                else:
                    self._skip(name)
        return ready

    def _is_wanted(self, planned: PlannedStep) -> bool:
        if planned.needs & self._skipped:
            return False
        if planned.condition is None or planned.step.when is None:
            return True
        tensor = self._value(planned, planned.condition)
        return tensor is not None and _holds(planned.step.name, planned.step.when, tensor)

    def _skip(self, name: str) -> None:
        self._skipped.add(name)
        self._end(name)

    def _end(self, name: str) -> None:
        planned = self._plan.steps[name]
        for _, ref in planned.inputs:
            self.values.done(ref)
        if planned.condition:
            self.values.done(planned.condition)
        for dependent in self._plan.dependents[name]:
            self._waiting[dependent].discard(name)

    async def _run_step(self, name: str) -> str:
        planned, clock = self._plan.steps[name], asyncio.get_running_loop().time
        started = clock()
        try:
            return await self._ran(name, planned)
        finally:
            ended = clock()
            self._invoke.ended(name, ended - started)
            if (timeline := CURRENT.get()) is not None:
                timeline.add(Stage("step", started, ended, name))

    async def _ran(self, name: str, planned: PlannedStep) -> str:
        inputs = {}
        for input_name, ref in planned.inputs:
            if (tensor := self._value(planned, ref)) is not None:
                inputs[input_name] = tensor
        self.values.add(name, await self._call(planned, inputs))
        return name

    async def _call(self, planned: PlannedStep, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        step = planned.step
        deadline = self._deadline
        if step.timeout_seconds is not None:
            deadline = min(deadline, asyncio.get_running_loop().time() + step.timeout_seconds)
        for attempt in range(step.retries + 1):
            try:
                return await self._invoke(step.model, inputs, deadline)
            except Exception as error:
                if attempt == step.retries or not self._invoke.may_retry(step.model, error):
                    raise StepError(step.name, error) from error
                await asyncio.sleep(random.uniform(0.5, 1) * RETRY_BACKOFF_S * 2**attempt)  # noqa: S311 - jitter
        raise AssertionError("the last attempt returns or raises")

    def _value(self, planned: PlannedStep, ref: ValueRef) -> Tensor | None:
        """The value of `ref`; None for an input that the request left out (admission has checked that it may)."""
        tensor = self.values.get(ref)
        if tensor is None and ref == planned.condition:
            raise BranchConditionError(planned.step.name, f"the request has no {ref.name}, which decides if it runs")
        return tensor

    def outputs(self) -> dict[str, Tensor]:
        """What the graph returns: outputs of skipped steps are left out."""
        answer: dict[str, Tensor] = {}
        for name, ref in self._plan.outputs:
            if (tensor := self.values.get(ref)) is not None:
                tensor.retain()
                answer[name] = tensor
        return answer


def _holds(step: str, condition: StepCondition, tensor: Tensor) -> bool:
    """Whether every element of the tensor equals the condition's value; mixed elements are an error of the request."""
    if tensor.nbytes > MAX_CONDITION_BYTES:
        raise BranchConditionError(step, f"{condition.source} has {tensor.nbytes} bytes, expected one value")
    elements = set(_elements(tensor))
    if len(elements) != 1:
        raise BranchConditionError(
            step, f"{condition.source} holds {len(elements)} different values, expected one for the whole request"
        )
    return elements == {condition.equals}


def _elements(tensor: Tensor) -> list[str | int | bool | float]:
    if tensor.dtype != DType.BYTES:
        values: list[str | int | bool | float] = tensor.array().reshape(-1).tolist()
        return values
    raw, texts, position = bytes(tensor.data), [], 0
    while position < len(raw):
        start = position + BYTES_PREFIX
        position = start + int.from_bytes(raw[position:start], "little")
        texts.append(raw[start:position].decode("utf-8", "replace"))
    return list(texts)
