"""One loaded revision as requests see it: its contract, its worker groups, and the requests it is answering."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from podium.errors import RemoteUnavailable, StreamingMismatch, WorkerDied
from podium.graph.errors import GraphError
from podium.graph.executor import GraphRun, execute
from podium.graph.paces import Paces
from podium.graph.plan import GraphPlan
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.codec_group import CodecGroup
from podium.serving.dispatch.direct import Answered, DirectCall
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.dispatch.streamed import ChunkedAnswer, StreamedAnswer
from podium.serving.revisions.callee import Callee
from podium.serving.revisions.contract import Contract
from podium.serving.revisions.pipeline_stream import PipelineStream
from podium.telemetry.counting import BodyCounts, RequestCounts, StreamCounts
from podium.telemetry.histogram import Histogram
from podium.telemetry.shadow_counts import ShadowCounts
from podium_crds.assignment import ResourceRef, Revision

if TYPE_CHECKING:
    from podium.serving.revisions.shadow import Mirror


class LiveRevision:
    """Answers requests from the moment its workers are warm until the last of them has ended.

    Who pins it (`enter`) must let it go (`leave`); it is unloaded only at zero. The lifecycle owns the groups.
    """

    def __init__(
        self,
        resource: ResourceRef,
        spec: Revision,
        groups: Mapping[str, Callee],
        codecs: CodecGroup | None = None,
    ) -> None:
        self.resource = resource
        self.spec = spec
        self.groups = groups
        """Member name → its workers, or the model of other pods that it is."""
        self.codecs = codecs
        """What reads and writes the model's own content types; None for a model without, and for a pipeline."""
        self.contract = Contract.of(spec)
        self.counts = RequestCounts()
        self.stream_counts = StreamCounts()
        self.body_counts = BodyCounts()
        self.shadow = ShadowCounts()
        """Copies of requests that it saw as a candidate."""
        self.mirror: Mirror | None = None
        """Takes copies of what it answers, for a candidate."""
        self.step_seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Step of a pipeline → how long it took."""
        self.step_failures: Counter[str] = Counter()
        """Step of a pipeline → requests that failed at it."""
        self.in_flight = 0
        self._plan = GraphPlan.of(spec.graph, spec.members) if spec.graph else None
        self._paces = Paces(self._plan) if self._plan else None
        self._members = {member.name: member for member in spec.members}
        self._on_idle: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """The revision's name, as the header of every answer gives it."""
        return self.spec.name

    def retune(self, spec: Revision) -> None:
        """Takes on a spec that loads the same members: timeouts, retries, digests."""
        self.spec = spec
        self._plan = GraphPlan.of(spec.graph, spec.members) if spec.graph else None
        self._members = {member.name: member for member in spec.members}

    def enter(self) -> None:
        """A request has pinned this revision."""
        self.in_flight += 1

    def leave(self) -> None:
        """That request has been answered."""
        self.in_flight -= 1
        if not self.in_flight and self._on_idle:
            self._on_idle()

    def notify_idle(self, callback: Callable[[], None]) -> None:
        """Calls back whenever the last request leaves; at once if none is here."""
        self._on_idle = callback
        if not self.in_flight:
            callback()

    async def infer(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, priority: int = 0
    ) -> dict[str, Tensor]:
        """Outputs leased to the caller. `inputs` are borrowed for the call. Raises PodiumError.

        `priority` from 1, the most urgent, to 9 holds in every step; 0: each model's own.
        """
        if self._plan is None:
            group = self.groups[self.spec.members[0].name]
            outputs = await group.infer(inputs, request_id=request_id, deadline=deadline, priority=priority)
        else:
            outputs = await self._walked(self._plan, inputs, _MemberCalls(self, request_id, priority), deadline)
        if self.mirror is not None:
            self.mirror.offer(inputs, outputs)
        return outputs

    async def _walked(
        self, plan: GraphPlan, inputs: Mapping[str, Tensor], calls: "_MemberCalls", deadline: float
    ) -> dict[str, Tensor]:
        assert self._paces is not None, "made with the plan"
        try:
            return await execute(plan, inputs, calls, deadline, self._paces)
        except GraphError as error:
            calls.failed(error.step)
            raise

    @property
    def streams(self) -> bool:
        """Whether it answers in chunks. A pipeline does where one of its last steps does."""
        return bool(self._streaming) if self._plan else self.groups[self.spec.members[0].name].streams

    def stream(self, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> ChunkedAnswer:
        """An answer in chunks; the reader closes it. `inputs` are borrowed until it is closed.

        Raises StreamingMismatch, and for a model as WorkerGroup.stream.
        """
        if self.mirror is not None:
            self.mirror.pass_over()
        if self._plan is None:
            return self._stream_of(self.spec.members[0].name, inputs, request_id, deadline)
        if not self._streaming:
            last = ", ".join(self._plan.last)
            raise StreamingMismatch(
                f"{self.resource.name} does not stream: none of its last steps ({last}) calls a model that does"
            )
        assert self._paces is not None, "made with the plan"
        plan, calls = self._plan, _MemberCalls(self, request_id, 0)
        run = GraphRun(plan, inputs, calls, deadline, self._paces)

        def open_stream(step: str, given: Mapping[str, Tensor], due: float) -> StreamedAnswer:
            return self._stream_of(plan.steps[step].step.model, given, request_id, due)

        return PipelineStream(run, self._streaming, open_stream, calls)

    @property
    def _streaming(self) -> Mapping[str, bool]:
        """Last steps of the graph that stream, or may: each with whether that is known."""
        plan = self._plan
        if plan is None:
            return {}
        callees = {name: self.groups[plan.steps[name].step.model] for name in plan.last}
        return {name: callee.surely_streams for name, callee in callees.items() if callee.streams}

    def _stream_of(self, member: str, inputs: Mapping[str, Tensor], request_id: str, deadline: float) -> StreamedAnswer:
        group = self.groups[member]
        return group.stream(inputs, request_id=request_id, deadline=deadline, counts=self.stream_counts)

    def begin(
        self, inputs: Mapping[str, Tensor], request_id: str, deadline: float, answered: Answered, priority: int = 0
    ) -> DirectCall:
        """As `infer`, with a callback in place of a task; for a revision without a graph. Raises PodiumError."""
        assert self._plan is None, "a graph is walked by tasks"
        group = self.groups[self.spec.members[0].name]
        assert isinstance(group, WorkerGroup), "a model without a graph is loaded here"
        if self.mirror is not None:
            answered = self.mirror.listening(inputs, answered)
        return group.begin(inputs, request_id=request_id, deadline=deadline, answered=answered, priority=priority)

    def may_retry(self, member: str, error: Exception) -> bool:
        """A step may run again after its worker died or its model could not be reached, if the member is idempotent or
        had not begun."""
        if isinstance(error, WorkerDied):
            return self._members[member].idempotent or not error.started
        return isinstance(error, RemoteUnavailable) and (self._members[member].idempotent or not error.sent)


class _MemberCalls:
    """Calls members of one revision for one request."""

    def __init__(self, revision: LiveRevision, request_id: str, priority: int) -> None:
        self._revision = revision
        self._priority = priority
        self._request_id = request_id

    async def __call__(self, member: str, inputs: Mapping[str, Tensor], deadline: float) -> dict[str, Tensor]:
        group = self._revision.groups[member]
        return await group.infer(inputs, request_id=self._request_id, deadline=deadline, priority=self._priority)

    def may_retry(self, member: str, error: Exception) -> bool:
        return self._revision.may_retry(member, error)

    def ended(self, step: str, seconds: float) -> None:
        self._revision.step_seconds[step].add(seconds)

    def failed(self, step: str) -> None:
        self._revision.step_failures[step] += 1
