"""The operator killed right after its k-th write of a rollout, and another started: it always comes to the same end.

`make test` kills at a few writes of each rollout, `make fuzz` at every one (PODIUM_EVERY_WRITE=1).
"""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.mortal_operator import MortalOperator
from tests.support.picture import Picture, Stored
from tests.support.waiting import eventually
from tests.support.world import CHAIN, MODEL, Asking, World, chain, scale

from podium_operator.kube.client import Manifest

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(1800 if os.environ.get("PODIUM_EVERY_WRITE") else 480)]

EVERY = bool(os.environ.get("PODIUM_EVERY_WRITE"))
WITHIN_S = 120
QUICK: dict[str, Any] = {
    "propagationSeconds": 1,
    "drainTimeoutSeconds": 2,
    "rollbackWindowSeconds": 0,
    "revisionHistoryLimit": 10,
}
STEPS = {**QUICK, "steps": [{"weight": 40, "pauseSeconds": 0}, {"weight": 80, "pauseSeconds": 1}]}


@dataclass(frozen=True)
class Rollout:
    """A resource, and how its n-th version is asked for: the first of the manifests is what changes."""

    version: Callable[[str, int], Manifest]
    answer_of: Callable[[int], float] = float
    of: tuple[str, str] = MODEL
    beside: Callable[[str], Manifest] | None = None
    pods: int = 2
    kills: int = 3
    """That `make test` takes."""


def in_place(namespace: str, version: int) -> Manifest:
    return scale(namespace, version, replicas=2, rollout=QUICK)


def surge(namespace: str, version: int) -> Manifest:
    return scale(namespace, version, rollout=QUICK, env=[{"name": "COLOUR", "value": str(version)}])


def in_steps(namespace: str, version: int) -> Manifest:
    return scale(namespace, version, replicas=2, rollout=STEPS)


def member(namespace: str, version: int) -> Manifest:
    return scale(namespace, version, replicas=0, rollout=QUICK)


def pipeline(namespace: str) -> Manifest:
    document = chain(namespace, {"modelRef": {"name": "scale"}})
    document["spec"]["rollout"] = QUICK
    return document


ROLLOUTS = {
    "InPlace": Rollout(in_place),
    "Surge": Rollout(surge, pods=1, kills=2),
    "InSteps": Rollout(in_steps),
    "MemberOfPipeline": Rollout(member, lambda version: 10.0 * version, CHAIN, pipeline, pods=1),
}


class Trial:
    """One resource that goes from version to version."""

    def __init__(self, world: World, rollout: Rollout, folder: Path) -> None:
        self._world = world
        self._rollout = rollout
        self._folder = folder
        self._stored = Stored(world, rollout.of)
        self._version = 1
        self.end: Picture | None = None
        """What a rollout that nobody disturbs comes to."""

    @asynccontextmanager
    async def operator(self, dies_after: int | None = None) -> AsyncIterator[MortalOperator]:
        plane = self._world.plane
        async with MortalOperator(plane.kubeconfig, self._world.namespace, self._folder, dies_after=dies_after) as one:
            yield one

    async def begin(self) -> None:
        """The first version, and the second undisturbed: which is then the end of every other."""
        async with self.operator():
            if self._rollout.beside is not None:
                await self._world.apply(self._rollout.beside(self._world.namespace))
            await self.ask_for_the_next()
            await eventually(self._complete, within_s=WITHIN_S, what="the first version")

    async def undisturbed(self) -> list[str]:
        """The writes of a rollout in which nothing happens."""
        async with self.operator() as one:
            await self.ask_for_the_next()
            self.end = await eventually(self._complete, within_s=WITHIN_S, what="a rollout that nothing disturbs")
            return one.writes

    async def killed_after(self, writes: int) -> str | None:
        """The last write of the operator that was killed; None where it had fewer to make."""
        async with self.operator(dies_after=writes) as first:
            await self.ask_for_the_next()

            async def over() -> bool:
                return first.killed or await self._as_ever()

            await eventually(over, within_s=WITHIN_S, what="the operator to be killed, or to be done")
            if not first.killed:
                return None
            last = first.writes[-1]
        await self._stored.picture()  # what holds at every moment holds at this one
        async with self.operator():
            await eventually(self._as_ever, within_s=WITHIN_S, what=f"the next operator to finish; killed after {last}")
        return last

    async def ask_for_the_next(self) -> None:
        self._version += 1
        await self._world.apply(self._rollout.version(self._world.namespace, self._version))

    @property
    def answer(self) -> float:
        """What the version asked for last answers to 1."""
        return self._rollout.answer_of(self._version)

    async def _complete(self) -> Picture | None:
        found = await self._stored.picture()
        assert found.complete, found
        assert await self._answers()
        return found

    async def _as_ever(self) -> bool:
        found = await self._stored.picture()
        assert found == self.end, f"{found}, not {self.end}"
        return await self._answers()

    async def _answers(self) -> bool:
        ask = self._world.run if self._rollout.of == CHAIN else self._world.ask
        return (await ask(1.0))[0] == self.answer


def chosen(writes: int, kind: str) -> list[int]:
    """Every write and one beyond; or a few, spread, and not the same of each kind of rollout."""
    if EVERY:
        return list(range(1, writes + 2))
    kills = ROLLOUTS[kind].kills
    first = 1 + list(ROLLOUTS).index(kind) % kills
    return [min(writes, first + round(turn * writes / kills)) for turn in range(kills)]


@pytest.mark.parametrize("kind", ROLLOUTS)
async def test_killed_after_any_write_the_next_operator_comes_to_the_same_end_and_no_request_fails(
    world: World, tmp_path: Path, kind: str
) -> None:
    rollout = ROLLOUTS[kind]
    trial = Trial(world, rollout, tmp_path)
    await trial.begin()
    async with Asking(world, rollout.of) as asking:
        writes = await trial.undisturbed()
        for number in chosen(len(writes), kind):
            last = await trial.killed_after(number)

            print(f"{kind}: killed after write {number}: {last}")
            assert asking.failures == [], f"after write {number}, {last}"
        await eventually(lambda: asking.answers[-1:] == [trial.answer])
    assert asking.failures == []
    assert asking.fewest_ready >= rollout.pods
    assert all(len(answers) == 1 for answers in asking.by_revision.values()), asking.by_revision
    given = list(dict.fromkeys(asking.answers))
    assert given == sorted(given) or kind == "InSteps", "a version came back that had been replaced"
    assert all(later - earlier in (0, rollout.answer_of(1)) for earlier, later in itertools.pairwise(sorted(given)))
