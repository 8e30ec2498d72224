"""Puts batches into workers' hands: inputs gathered, room for outputs granted, the message sent."""

from itertools import count

from podium.batching.batcher import GrantedSlot, gather
from podium.batching.grants import OutputSize
from podium.batching.joining import Joining
from podium.batching.queue import Waiting
from podium.errors import ArenaExhausted
from podium.ipc.channel import NoCredit, PeerGone
from podium.ipc.descriptor import grant_of
from podium.ipc.lease import Holder
from podium.ipc.protocol import Dispatch, Grant
from podium.serving.dispatch.hands import RunningBatch
from podium.serving.workers.pod import PodResources
from podium.serving.workers.supervisor import Supervisor


class Sender:
    """For one group."""

    def __init__(self, pod: PodResources, output_size: OutputSize, joining: Joining) -> None:
        self.joining = joining
        """As the model is tuned now."""
        self._pod = pod
        self._output_size = output_size
        self._numbers = count(1)

    def send(self, instance: Supervisor, batch: list[Waiting], expected_s: float, now: float) -> RunningBatch:
        """The batch in the worker's hands. Raises ArenaExhausted, PeerGone, NoCredit; then nothing is held."""
        rows = sum(waiting.rows for waiting in batch)
        inputs = gather(batch, self.joining, self._pod.arena, instance.holder, self._pod.options.inline_bytes)
        grant = self._grant(instance.holder, self._output_size.estimate(rows))
        for waiting in batch:
            waiting.end_promise()
        running = RunningBatch(next(self._numbers), batch, rows, inputs, grant, self.joining, expected_s, now)
        sees_requests = batch[0].bucket and not self.joining.is_ragged(batch)
        per_request = tuple([waiting.rows for waiting in batch]) if sees_requests else ()
        message = Dispatch(instance.epoch, running.number, per_request, inputs.refs, grant.range if grant else None)
        try:
            instance.send(message, inputs.payloads)
        except (PeerGone, NoCredit):
            running.release()
            raise
        return running

    def widen(self, instance: Supervisor, running: RunningBatch, nbytes: int) -> None:
        """Answers Need: a larger slot, or none. Raises PeerGone, NoCredit."""
        if running.grant is not None:
            running.grant.lease.revoke()
        running.grant = self._grant(instance.holder, nbytes)
        instance.send(Grant(instance.epoch, running.number, running.grant.range if running.grant else None))

    def _grant(self, holder: Holder, nbytes: int) -> GrantedSlot | None:
        """A slot for outputs; None where they are small enough for the message, or the arena has no room."""
        if nbytes <= self._pod.options.inline_bytes:
            return None
        try:
            lease = self._pod.arena.allocate(nbytes, holder).lease
        except ArenaExhausted:
            return None
        return GrantedSlot(lease, grant_of(lease.slot, nbytes))
