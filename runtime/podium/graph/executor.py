"""Walks a graph: every step starts as soon as its inputs are there, independent steps run at once.

A step whose `when` does not hold is skipped, and so are every step that reads from a skipped one (unless another source
of the same input has a value) and every step that only skipped ones would read; outputs of skipped steps are left out
of the answer. The first failure cancels the other steps and is raised, naming its step.
"""

import asyncio
import random
from collections.abc import Awaitable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from podium.graph.conditions import holds
from podium.graph.errors import BranchConditionError, StepError
from podium.graph.paces import Paces
from podium.graph.plan import REQUEST, GraphPlan, PlannedStep, ValueRef
from podium.graph.values import Values
from podium.ipc.tensor import Tensor
from podium.telemetry.timeline import CURRENT, Stage

RETRY_BACKOFF_S = 0.05


class Invoke(Protocol):
    """How the executor calls the model of a step."""

    def __call__(self, member: str, inputs: Mapping[str, Tensor], deadline: float) -> Awaitable[dict[str, Tensor]]:
        """Outputs of the member, leased to the caller. `deadline`: monotonic seconds."""

    def may_retry(self, member: str, error: Exception) -> bool:
        """Whether a step that ended with `error` may run again without harm."""

    def ended(self, step: str, seconds: float) -> None:
        """A step has ended, well or not, with all its attempts."""


async def execute(
    plan: GraphPlan, request: Mapping[str, Tensor], invoke: Invoke, deadline: float, paces: Paces
) -> dict[str, Tensor]:
    """Outputs of the graph for one request, leased to the caller.

    `request` is borrowed for the whole call. Raises StepError (with the member's own error as cause),
    MissingOutputError or BranchConditionError.
    """
    run = GraphRun(plan, request, invoke, deadline, paces)
    try:
        await run.walk()
        return run.outputs()
    finally:
        run.release()


class GraphRun:
    """One request's way through a graph. `release` it in the end; `request` is borrowed until then."""

    def __init__(
        self, plan: GraphPlan, request: Mapping[str, Tensor], invoke: Invoke, deadline: float, paces: Paces
    ) -> None:
        self._values = Values(plan, request)
        self._plan = plan
        self._invoke = invoke
        self._deadline = deadline
        self._paces = paces
        self._clock = asyncio.get_running_loop().time
        self._unmet = {name: len(planned.needs) for name, planned in plan.steps.items()}
        """Steps that have neither started nor been skipped → how many steps each still waits for."""
        self._uses = dict(plan.uses)
        """Step → how many readers it may still have."""
        self._skipped: set[str] = set()
        self._ready: list[str] = []
        self._running: set[asyncio.Task[str]] = set()

    async def walk(self, held: Collection[str] = ()) -> list[str]:
        """Runs every step that the request calls for. Of the steps in `held`, which nothing may need, it runs none:
        those the request calls for are returned. Raises as `execute`."""
        self._ready += [name for name, unmet in self._unmet.items() if not unmet]
        self._decide(REQUEST)
        kept: list[str] = []
        await self._run_from(self._begin(held, kept), held, kept)
        return kept

    async def run_also(self, names: Iterable[str]) -> None:
        """Runs steps that `walk` has kept. Raises as `execute`."""
        await self._run_from(list(names), (), [])

    async def _run_from(self, names: list[str], held: Collection[str], kept: list[str]) -> None:
        """Runs these steps, and those that start as others end."""
        try:
            while names or self._running:
                if len(names) == 1 and not self._running:
                    ended = [await self._run_step(names[0])]  # a chain needs no task of its own
                else:
                    self._running.update(asyncio.create_task(self._run_step(name)) for name in names)
                    ended = await self._some_end()
                for name in ended:
                    self._end(name)
                names = self._begin(held, kept)
        finally:
            await self._cancel_running()

    def inputs_of(self, name: str) -> dict[str, Tensor]:
        """What a step gets, borrowed from the run: an input that the request left out, as it may, is not there."""
        planned = self._plan.steps[name]
        found = ((input_name, self._values.first(refs)) for input_name, refs in planned.inputs)
        inputs = {input_name: tensor for input_name, tensor in found if tensor is not None}
        if planned.constants:
            rows = next((tensor.shape[0] for tensor in inputs.values() if tensor.shape), 1)
            inputs.update((input_name, constant.rows(rows)) for input_name, constant in planned.constants)
        return inputs

    def deadline_of(self, name: str) -> float:
        """When a step that begins now must have ended."""
        now, timeout = self._clock(), self._plan.steps[name].step.timeout_seconds
        deadline = self._paces.deadline(name, now, self._deadline)
        return deadline if timeout is None else min(deadline, now + timeout)

    def outputs(self) -> dict[str, Tensor]:
        """What the graph returns, leased to the caller: outputs of steps that did not run are left out."""
        answer: dict[str, Tensor] = {}
        for name, refs in self._plan.outputs:
            if (tensor := self._values.first(refs)) is not None:
                tensor.retain()
                answer[name] = tensor
        return answer

    def outputs_of(self, name: str, to_come: Collection[str] = ()) -> dict[str, ValueRef]:
        """Outputs of the graph for which this step is the first source that has a value, or will have one.

        `to_come`: steps whose values will be there, too.
        """
        return {
            output: ref
            for output, refs in self._plan.outputs
            for position, ref in enumerate(refs)
            if ref.producer == name
            and self._values.first(refs[:position]) is None
            and not any(before.producer in to_come for before in refs[:position])
        }

    def release(self) -> None:
        """Gives back every value. Idempotent."""
        self._values.release_all()

    def _begin(self, held: Collection[str], kept: list[str]) -> list[str]:
        """Takes the steps that start now; those that are held are kept apart."""
        names = [name for name in self._ready if self._is_wanted(name)]
        self._ready.clear()
        for name in names:
            del self._unmet[name]
        kept += [name for name in names if name in held]
        return [name for name in names if name not in held]

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

    def _end(self, name: str) -> None:
        """A step has run: what depends on it is decided, and may start."""
        self._decide(name)
        self._read(self._plan.steps[name])
        for dependent in self._plan.dependents[name]:
            self._meet(dependent)

    def _meet(self, name: str) -> None:
        """One of the steps that a step waits for has ended."""
        if name in self._unmet:
            self._unmet[name] -= 1
            if not self._unmet[name]:
                self._ready.append(name)

    def _decide(self, producer: str) -> None:
        """Skips the steps whose `when` compares a value of `producer`, and does not hold."""
        for name in self._plan.decided_by[producer]:
            if name in self._unmet:
                with suppress(BranchConditionError):  # raised where the step would start: it may yet be skipped
                    if not self._holds(name, producer):
                        self._skip(name)

    def _is_wanted(self, name: str) -> bool:
        """Whether a step whose needs have ended is to run. Raises BranchConditionError."""
        return name in self._unmet and self._holds(name)

    def _holds(self, name: str, producer: str | None = None) -> bool:
        """Whether the conditions of a step hold; with `producer` those alone that compare a value of it."""
        for ref, comparison in self._plan.steps[name].conditions:
            if producer is not None and ref.producer != producer:
                continue
            tensor = self._values.get(ref)
            if tensor is None:
                raise BranchConditionError(name, f"the request has no {ref.name}, which decides if it runs")
            if not holds(name, comparison, tensor):
                return False
        return True

    def _skip(self, name: str) -> None:
        """A step will not run; nor will those that need it, or that only it would have read."""
        if self._unmet.pop(name, None) is None:
            return
        planned = self._plan.steps[name]
        self._skipped.add(name)
        self._read(planned)
        for dependent in self._plan.dependents[name]:
            if self._plan.steps[dependent].lacks(self._skipped):
                self._skip(dependent)
            else:
                self._meet(dependent)
        for need in planned.needs:
            self._uses[need] -= 1
            if not self._uses[need]:
                self._skip(need)

    def _read(self, planned: PlannedStep) -> None:
        """A step needs its inputs no more."""
        for ref in planned.sources:
            self._values.done(ref)

    async def _run_step(self, name: str) -> str:
        started = self._clock()
        try:
            self._values.add(name, await self._call(name))
            self._paces.add(name, self._clock() - started)
            return name
        finally:
            ended = self._clock()
            self._invoke.ended(name, ended - started)
            if (timeline := CURRENT.get()) is not None:
                timeline.add(Stage("step", started, ended, name))

    async def _call(self, name: str) -> dict[str, Tensor]:
        step, inputs, deadline = self._plan.steps[name].step, self.inputs_of(name), self.deadline_of(name)
        for attempt in range(step.retries + 1):
            try:
                return await self._invoke(step.model, inputs, deadline)
            except Exception as error:
                if attempt == step.retries or not self._invoke.may_retry(step.model, error):
                    raise StepError(step.name, error) from error
                await asyncio.sleep(random.uniform(0.5, 1) * RETRY_BACKOFF_S * 2**attempt)  # noqa: S311 - jitter
        raise AssertionError("the last attempt returns or raises")
