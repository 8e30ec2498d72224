"""What a version that is taken back gives way to, where nothing else is loaded any more, in a simulated world."""

from dataclasses import replace
from typing import Any

from tests.operator.rollout.test_planner import desired
from tests.support.simulated_cluster import SimulatedCluster, retargeted, settle

from podium_crds.reasons import Reason
from podium_operator.state import Desired, Hand, Stage

HISTORY = 3


def version(name: str) -> Desired:
    """A version that needs pods of its own, so that nothing of the one before is kept."""
    env = [{"name": "VERSION", "value": name}]
    return desired(name, env=env, rollout={"rollbackWindowSeconds": 5, "revisionHistoryLimit": HISTORY})


def served(world: SimulatedCluster, before: Desired | None, name: str) -> Desired:
    """That version serves alone."""
    wanted = version(name) if before is None else retargeted(before, version(name))
    wanted, _ = settle(world, wanted)
    wanted, _ = settle(world, wanted, until=lambda w, _: w.revisions[wanted.target.name].served_at is not None)
    return settle(world, wanted, until=lambda w, _: len(w.pools) == 1)[0]


def failed(world: SimulatedCluster, before: Desired, name: str) -> Desired:
    """That version is tried, and given up."""
    wanted = retargeted(before, version(name))
    world.fails.add(wanted.target.name)
    return settle(world, wanted, until=lambda w, f: f.stage is Stage.FAILED and len(w.pools) == 1)[0]


def rolled_back(world: SimulatedCluster, wanted: Desired, **hand: Any) -> list[str]:
    """What serves a minute after the user has taken that version back."""
    undone = replace(wanted, hand=Hand(rollback=wanted.target.name, **hand))
    for _ in range(60):
        world.step(undone)
        world.tick()
    return world.serving()


def test_a_version_that_never_served_is_nothing_to_go_back_to() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    third = served(world, failed(world, first, "2"), "3")
    assert world.revisions[version("2").target.name].quarantine is None, "only the spec's own revision is quarantined"
    assert rolled_back(world, third) == [first.target.name]


def test_where_nothing_has_served_before_a_version_taken_back_by_hand_serves_on() -> None:
    world = SimulatedCluster()
    broken = version("1")
    world.fails.add(broken.target.name)
    tried, _ = settle(world, broken, until=lambda _, f: f.stage is Stage.FAILED)
    second = served(world, tried, "2")
    assert rolled_back(world, second) == [second.target.name]


def test_the_version_that_served_last_comes_back_not_the_newest_record() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    again = served(world, served(world, served(world, first, "2"), "3"), "2")
    fourth = served(world, again, "4")
    assert rolled_back(world, fourth) == [again.target.name]


def test_a_version_that_served_and_failed_since_is_nothing_to_go_back_to() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    second = served(world, first, "2")
    failing = failed(world, served(world, second, "1"), "2")
    assert world.revisions[second.target.name].served_at is None
    third = served(world, failing, "3")
    assert rolled_back(world, third) == [first.target.name]


def test_what_served_outlives_any_number_of_failed_tries_in_the_history() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    tried = first
    for number in range(HISTORY + 2):
        tried = failed(world, tried, f"bad-{number}")
    last, _ = settle(world, served(world, tried, "3"), until=lambda w, _: len(w.revisions) == HISTORY + 1)
    assert rolled_back(world, last) == [first.target.name]


def test_a_version_named_by_the_user_comes_back_though_it_never_served_here() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    last = served(world, failed(world, first, "2"), "3")
    world.fails.clear()
    wanted = version("2").target.name
    assert rolled_back(world, last, rollback_to=wanted) == [wanted]


def test_workers_that_die_after_a_surge_bring_back_what_served_and_no_failed_try_in_between() -> None:
    world = SimulatedCluster()
    first = served(world, None, "1")
    tried = failed(world, first, "2")
    third = retargeted(tried, version("3"))
    third = replace(third, rollout=third.rollout.model_copy(update={"rollback_window_seconds": 300}))
    third, _ = settle(world, third)
    third, _ = settle(world, third, until=lambda w, _: len(w.pools) == 1)
    world.crashes.add(third.target.name)
    _, facts = settle(world, third, until=lambda w, f: f.stage is Stage.FAILED and w.serving() == [first.target.name])
    assert facts.problem is not None
    assert facts.problem.reason is Reason.RUNTIME_CRASH_LOOP
