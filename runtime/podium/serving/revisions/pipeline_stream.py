"""`PipelineStream`: the answer of a pipeline in chunks: all steps but the last run first, the last one streams."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from podium.errors import StreamingMismatch
from podium.graph.errors import GraphError, StepError
from podium.graph.executor import GraphRun
from podium.graph.plan import ValueRef
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.streamed import StreamedAnswer
from podium.serving.dispatch.streams import Outputs
from podium.telemetry.timeline import CURRENT, Stage


class Open(Protocol):
    """How the stream of a step is opened."""

    def __call__(self, step: str, inputs: Mapping[str, Tensor], deadline: float, /) -> StreamedAnswer:
        """Raises as WorkerGroup.stream."""


class Steps(Protocol):
    """Who counts what became of steps."""

    def ended(self, step: str, seconds: float) -> None:
        """It ran for so long."""

    def failed(self, step: str) -> None:
        """The request failed at it."""


class PipelineStream:
    """One answer in chunks. Use it in `async with`; one reader.

    What steps before the last one give to the answer is part of the first chunk. Where the request takes a branch that
    ends in a step which does not stream, the whole answer is the one chunk. Of several last steps one streams: one that
    is known to before one that may; the others of those that may are asked for their answer at once.
    """

    def __init__(self, run: GraphRun, streaming: Mapping[str, bool], open_stream: Open, steps: Steps) -> None:
        """`streaming`: those of the plan's last steps that stream, or may, with whether that is known. The run is owned
        from here on. `steps` is told the step that streamed, once, and the one that failed."""
        self._run = run
        self._streaming = streaming
        self._open = open_stream
        self._steps: Steps | None = steps
        """None once it was told of the step that streamed."""
        self._started = 0.0
        self._step: str | None = None
        self._answer: StreamedAnswer | None = None
        self._outputs: Outputs = {}
        """Leased, until the chunk that they are in has been delivered."""
        self._streamed: dict[str, ValueRef] = {}
        """Outputs that the chunks carry, and their names there."""
        self._has_begun = False

    async def read(self) -> list[Outputs]:
        """As ChunkedAnswer. Raises StepError, MissingOutputError, BranchConditionError, StreamingMismatch."""
        try:
            if not self._has_begun:
                self._has_begun = True
                return await self._begin()
            self._release()
            return [self._named(chunk) for chunk in await self._chunks()]
        except GraphError as error:
            if self._steps is not None:
                self._steps.failed(error.step)
            raise

    def close(self) -> None:
        """Ends it wherever it stands. Idempotent."""
        if self._answer is not None:
            self._answer.close()
        self._note_end()
        self._release()
        self._run.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _begin(self) -> list[Outputs]:
        step = await self._walked()
        self._outputs = self._run.outputs()
        if step is not None:
            self._streamed = self._run.outputs_of(step)
            for name in self._streamed.keys() & self._outputs.keys():
                self._outputs.pop(name).release()  # another source, for requests that this step is not called for
            self._start(step)
        self._run.release()
        chunks = [self._named(chunk) for chunk in await self._chunks()]
        if not self._outputs:
            return chunks
        first = chunks[0] if chunks else {}
        return [{**self._outputs, **first}, *chunks[1:]]

    async def _walked(self) -> str | None:
        """Runs everything but the step that streams for this request, and returns that."""
        kept = await self._run.walk(self._streaming)
        wanted = [name for name in kept if self._run.outputs_of(name, kept)]  # no output takes the others' values
        if len(wanted) < 2:
            return wanted[0] if wanted else None
        sure = [name for name in wanted if self._streaming[name]]
        if len(sure) > 1:
            raise StreamingMismatch(
                f"steps {' and '.join(sure)} would both stream for this request: only one step can; "
                "ask for the answer at once, or give one of them a condition"
            )
        chosen = sure[0] if sure else wanted[0]
        await self._run.run_also(name for name in wanted if name != chosen)
        return chosen

    def _note_end(self) -> None:
        steps, self._steps = self._steps, None
        if steps is None or self._step is None:
            return
        now = asyncio.get_running_loop().time()
        steps.ended(self._step, now - self._started)
        if (timeline := CURRENT.get()) is not None:
            timeline.add(Stage("step", self._started, now, self._step))

    def _start(self, step: str) -> None:
        self._step, self._started = step, asyncio.get_running_loop().time()
        try:
            self._answer = self._open(step, self._run.inputs_of(step), self._run.deadline_of(step))
        except Exception as error:
            raise StepError(step, error) from error

    async def _chunks(self) -> list[Outputs]:
        if self._answer is None or self._step is None:
            return []
        try:
            return await self._answer.read()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise StepError(self._step, error) from error

    def _named(self, chunk: Outputs) -> Outputs:
        """A chunk of the last step by the names of the pipeline's outputs; others are nobody's."""
        return {name: chunk[ref.name] for name, ref in self._streamed.items() if ref.name in chunk}

    def _release(self) -> None:
        while self._outputs:
            self._outputs.popitem()[1].release()
