"""What becomes of a reply: outputs checked and split, shares handed out, and the run learned from."""

from collections.abc import Callable
from dataclasses import dataclass

from podium.batching.batcher import GrantedSlot, lease_out, read_outputs
from podium.batching.grants import OutputSize
from podium.batching.policy import BatchPolicy
from podium.errors import ModelError, ProtocolError
from podium.ipc.arena import Arena
from podium.ipc.channel import Payloads
from podium.ipc.descriptor import Descriptor
from podium.ipc.lease import FRONT_END
from podium.ipc.protocol import Reply
from podium.serving.dispatch.hands import RunningBatch
from podium.serving.dispatch.outcomes import Outcomes
from podium.serving.dispatch.tally import Tally
from podium.serving.workers.supervisor import Supervisor
from podium.telemetry.timeline import Stage


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one group."""

    arena: Arena
    outcomes: Outcomes
    policy: BatchPolicy
    output_size: OutputSize
    tally: Tally
    clock: Callable[[], float]

    def learn(self, running: RunningBatch, run_s: float, now: float) -> None:
        """Takes a run into account that was answered `now`. Cold runs say nothing of warm ones."""
        self.tally.run_seconds += run_s
        self.tally.infer_s.add(run_s)
        self._note_stages(running, run_s, now)
        if running.is_warm_up:
            return
        took = now - running.began
        credited = running.run is not None and running.run.is_credited
        self.policy.service.observe(running.requests[0].bucket, running.rows, took, now, credited=credited)
        if self.policy.max_delay_s:
            self.policy.returns.answered(len(running.requests), now)
        if expected_at := running.requests[-1].expected_at:
            self.policy.slip.observe(now - expected_at)
        if not running.was_ahead:
            self.policy.observe_hand_off(max(0.0, took - run_s))
            self.tally.hand_off_s.add(max(0.0, took - run_s))

    def complete(self, instance: Supervisor, running: RunningBatch, reply: Reply, payloads: Payloads) -> None:
        """Every request of the batch gets its share, or an error. Kills a worker whose reply cannot be believed."""
        now = self.clock()
        self.tally.copies.stored(reply.stores, reply.stored_bytes)
        try:
            if running.grant is not None:
                self._cut_short(running.grant, reply)
                self.arena.ledger.seal(running.grant.lease.slot)
            outputs = read_outputs(reply.outputs, payloads, running.inputs, running.grant, self.arena)
            good = self.outcomes.fail_items(running.requests, reply.errors) if reply.errors else running.requests
            shares = running.joining.split(outputs, good, running.requests)
        except ProtocolError as error:
            self.outcomes.fail(running.requests, ModelError(f"the worker's answer was refused: {error}"))
            instance.kill(str(error))
            return
        except ModelError as error:
            self.outcomes.fail(running.requests, error)
            return
        self.output_size.observe(running.rows, running.stored_bytes(outputs.values()), len(outputs))
        self.outcomes.succeed(good, shares, lambda share: lease_out(share, self.arena, FRONT_END))
        if self.policy.cap.target_s is not None and not running.is_warm_up:
            self.policy.cap.observe(running.rows, [now - waiting.arrived for waiting in good])
        self.tally.output_s.add(self.clock() - now)

    def _cut_short(self, grant: GrantedSlot, reply: Reply) -> None:
        """Gives back what outputs left of a slot that was granted by the largest of late: it lives as long as the
        slowest reader of an answer. Unless the model still looks at the slot: it may write anywhere in there."""
        slot = grant.lease.slot
        if slot.generation in reply.held:
            return
        own = (ref for ref in reply.outputs.values() if isinstance(ref, Descriptor))
        end = max((ref.offset + ref.nbytes for ref in own if ref.generation == slot.generation), default=0)
        if end < slot.capacity:
            self.arena.ledger.resize(slot, end)

    def _note_stages(self, running: RunningBatch, run_s: float, now: float) -> None:
        """Of requests that are traced or explained."""
        for waiting in running.requests:
            if waiting.timeline is not None:
                name, facts = self.outcomes.member().name, (("rows", running.rows), ("run_ms", round(run_s * 1e3, 3)))
                waiting.timeline.add(Stage("queue", waiting.arrived, running.began, name))
                waiting.timeline.add(Stage("infer", running.began, now, name, facts))
