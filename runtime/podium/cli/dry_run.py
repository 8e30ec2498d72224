"""`podium validate --run`: each model in a real worker, asked at batch 1 and at its largest batch, over and over.

Finds what a first request would not: answers that break the contract or depend on who shares the batch, memory that
grows, inputs that are kept or written to. Every finding says what is wrong and what to change.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import numpy as np

from podium.artifacts import ArtifactError, ArtifactStore, Limits
from podium.cli.samples import joined, row_count, rows_of, synthesized
from podium.errors import ModelError, PodiumError, WorkerDied, WorkerLoadError
from podium.ipc.tensor import Tensor
from podium.serving.dispatch.group import WorkerGroup
from podium.serving.revisions.contract import Contract, described, disagreement
from podium.serving.revisions.named_tensors import parse_tensors
from podium.serving.workers.pod import PodOptions, PodResources
from podium.serving.workers.process import memory_bytes
from podium_crds.assignment import EngineKind, Member
from podium_crds.tensors import DType

ARENA_BYTES = 256 << 20
STOP_GRACE_S = 5.0
SINGLES = 8
"""Rows of the largest batch that are asked for alone as well."""
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4
LEAK_BYTES = 1 << 20
"""Growth below this, over the whole loop, is an allocator settling."""
Outputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a model, and what to change."""

    check: str
    problem: str
    advice: str


@dataclass(slots=True)
class Verdict:
    """What came out for one model."""

    model: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    """Measured, by name with its unit."""

    def note(self, check: str, problem: str, advice: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(check, problem, advice))


async def dry_run(members: Sequence[Member], state_dir: Path, repeat: int) -> list[Verdict]:
    """One verdict for each member. Raises OSError where no worker can be had at all."""
    store = ArtifactStore(state_dir / "artifacts", Limits())
    store.open()
    with tempfile.TemporaryDirectory(prefix="podium-") as run_dir:
        # Nothing travels in messages, so that a model that keeps or writes to its inputs is seen to.
        pod = await PodResources.open(ARENA_BYTES, Path(run_dir), PodOptions(inline_bytes=0))
    try:
        return [await _Trial(member, pod, store, repeat).verdict() for member in members]
    finally:
        await pod.close()
        store.close()


class _Trial:
    """The checks of one member, in order; a failed one ends them where the next would say the same."""

    def __init__(self, member: Member, pod: PodResources, store: ArtifactStore, repeat: int) -> None:
        self._member = member.model_copy(update={"instances": 1})
        self._pod = pod
        self._store = store
        self._repeat = repeat
        self._verdict = Verdict(member.name)

    async def verdict(self) -> Verdict:
        """Loads, asks, unloads."""
        if self._member.engine.kind is EngineKind.VLLM:
            self._verdict.note("run", "engine VLLM is not run by validate", "use podium serve -f and ask it")
            return self._verdict
        began = time.perf_counter()
        try:
            fetched = await self._store.fetch(self._member.artifact, lambda _done, _total: None)
            group = await WorkerGroup.start(self._member, fetched.path, pod=self._pod)
        except (ArtifactError, WorkerLoadError) as error:
            self._verdict.note("load", str(error), "see the message; the model was not run")
            return self._verdict
        try:
            self._verdict.facts["load_s"] = round(time.perf_counter() - began, 3)
            private, shared = memory_bytes(group.stats().pids[0])
            self._verdict.facts |= {"private_bytes": private, "shared_bytes": shared}
            await self._ask_all(group)
        except WorkerDied as error:
            self._note_death(error)
        except PodiumError as error:
            self._note_error(error)
        finally:
            await group.stop(STOP_GRACE_S)
        return self._verdict

    async def _ask_all(self, group: WorkerGroup) -> None:
        batches = self._batches()
        if not batches:
            self._verdict.note(
                "run", "there is nothing to ask", "declare inputs, or give a request under warmup.requests"
            )
            return
        for inputs in batches:
            outputs = await self._infer(group, inputs)
            self._check_contract(outputs)
            _release(outputs)
            self._check_kept()
        if all(tensor.shape for tensor in batches[-1].values()) and row_count(batches[-1]) > 1:
            await self._check_split(group, batches[-1])
        await self._check_loop(group, batches)

    def _batches(self) -> list[Mapping[str, Tensor]]:
        """Requests of one row and of the largest batch: declared ones repeated, else synthesized."""
        most = self._member.batching.max_batch_size
        probes = [parse_tensors(dict(probe.inputs), Contract.of_member(self._member)) for probe in self._member.warmup]
        if probes:
            largest = joined(probes[0], most)
            return [*probes, largest] if largest is not None else [*probes]
        if not self._member.inputs:
            return []
        sizes = dict.fromkeys((1, most))
        return [synthesized(self._member.inputs, rows) for rows in sizes]

    async def _infer(self, group: WorkerGroup, inputs: Mapping[str, Tensor]) -> Outputs:
        deadline = time.monotonic() + self._member.timeout_seconds
        return await group.infer(inputs, request_id="validate", deadline=deadline)

    def _check_contract(self, outputs: Outputs) -> None:
        for spec in self._member.outputs:
            tensor = outputs.get(spec.name)
            if tensor is None and spec.optional:
                continue
            problem = "nothing" if tensor is None else disagreement(spec, tensor)
            if problem and not self._has("contract"):
                self._verdict.note(
                    "contract",
                    f"the answer has {problem} for {spec.name}; declared is {described(spec)}",
                    "change what the model returns, or what outputs declares",
                )

    def _check_kept(self) -> None:
        if self._pod.arena.stats().slots and not self._has("kept"):
            self._verdict.note(
                "kept",
                "the model still looks at an input after it has answered",
                "copy what must outlive the call (x.copy(), x.clone()); else every later input is copied for it",
            )

    async def _check_split(self, group: WorkerGroup, inputs: Mapping[str, Tensor]) -> None:
        """The largest batch against its first rows alone."""
        whole = await self._infer(group, inputs)
        rows = min(SINGLES, row_count(inputs))
        try:
            for index in range(rows):
                alone = await self._infer(group, rows_of(inputs, index, index + 1))
                try:
                    if name := _first_difference(whole, alone, index):
                        self._verdict.note(
                            "split",
                            f"row {index} has another {name} in a batch of {row_count(inputs)} than alone",
                            "the answer to a row must not depend on its neighbours or on chance: look for batch "
                            "statistics (is the module in eval mode?), sampling, padding, or state kept between calls",
                        )
                        return
                finally:
                    _release(alone)
        finally:
            _release(whole)

    async def _check_loop(self, group: WorkerGroup, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Latency of each batch, and memory at thirds of the loop, the first of which is for warming up."""
        times: dict[int, list[float]] = {row_count(inputs): [] for inputs in batches}
        marks: list[int] = []
        for number in range(self._repeat * 3):
            for inputs in batches:
                began = time.perf_counter()
                _release(await self._infer(group, inputs))
                times[row_count(inputs)].append(time.perf_counter() - began)
            if (number + 1) % self._repeat == 0:
                marks.append(memory_bytes(group.stats().pids[0])[0])
        for rows, taken in times.items():
            cuts = quantiles(taken, n=100, method="inclusive")
            self._verdict.facts[f"p50_ms_batch_{rows}"] = round(cuts[49] * 1e3, 3)
            self._verdict.facts[f"p99_ms_batch_{rows}"] = round(cuts[98] * 1e3, 3)
        self._note_growth(marks)

    def _note_growth(self, marks: Sequence[int]) -> None:
        settled, middle, last = marks
        grown = (last - settled) / (2 * self._repeat)
        self._verdict.facts["growth_bytes_per_round"] = round(grown)
        # An allocator that settles grows in one half; a leak grows in both alike.
        if last - settled > LEAK_BYTES and min(middle - settled, last - middle) > (last - settled) / 4:
            self._verdict.note(
                "memory",
                f"the worker grew by {grown / 1024:.1f} KiB with each round, {(last - settled) >> 10} KiB in all",
                "a leak is suspected: look for lists, caches and tensors that the model keeps between calls",
            )

    def _note_death(self, error: WorkerDied) -> None:
        advice = "run it under a debugger; a worker that dies takes the requests in it along"
        if "SIGSEGV" in str(error):
            advice = (
                "a model that writes to its input dies so, since inputs are read-only: use x = x / 255, not x /= 255"
            )
        self._verdict.note("death", str(error), advice)

    def _note_error(self, error: PodiumError) -> None:
        text = str(error)
        if "read-only" in text:
            self._verdict.note("writes", f"the model writes to its input: {text}", "work on a copy: x = x.copy()")
        elif isinstance(error, ModelError):
            self._verdict.note("run", text, "the model must take what its inputs declare, from 1 row to maxBatchSize")
        else:
            self._verdict.note("run", text, "see the message")

    def _has(self, check: str) -> bool:
        return any(finding.check == check for finding in self._verdict.findings)


def _first_difference(whole: Outputs, alone: Outputs, index: int) -> str | None:
    """The first output whose row `index` is another alone; rows that are no rows are not compared."""
    for name, tensor in whole.items():
        if not tensor.shape or name not in alone:
            continue
        left, right = tensor.array()[index], alone[name].array()[0]
        if tensor.dtype is DType.BYTES:
            same = np.array_equal(left, right)
        else:
            same = left.shape == right.shape and np.allclose(
                left.astype("f8"), right.astype("f8"), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE, equal_nan=True
            )
        if not same:
            return name
    return None


def _release(outputs: Outputs) -> None:
    for tensor in outputs.values():
        tensor.release()


Say = Callable[[str], None]


def told(verdict: Verdict, say: Say) -> None:
    """The verdict in lines for people."""
    facts = ", ".join(f"{name} {value:g}" for name, value in verdict.facts.items())
    say(f"{verdict.model}: {facts or 'not loaded'}")
    for finding in verdict.findings:
        say(f"  {finding.check}: {finding.problem}")
        say(f"    → {finding.advice}")
