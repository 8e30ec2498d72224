"""Which assignment is in force: the three sources, on real files."""

import asyncio
from pathlib import Path

import pytest
from tests.runtime.serving.builders import a_revision, an_assignment
from tests.runtime.serving.processes import write_mount
from tests.support.waiting import eventually

from podium.serving.revisions.assignments import AssignmentDesk, without_candidates
from podium.serving.revisions.errors import AssignmentRefusedError
from podium_crds.assignment import Assignment, Generation
from podium_crds.keys import ASSIGNMENT_FILE
from podium_crds.shadow import Shadow

A, B, C = a_revision(2), a_revision(3), a_revision(4)


class Desk:
    """A desk that notes what it was told to apply."""

    def __init__(self, folder: Path, uid: str = "uid-1") -> None:
        self.applied: list[Assignment] = []
        self.desk = AssignmentDesk(folder / "mount", folder / "state", uid, self.applied.append)


def names(assignment: Assignment) -> list[str]:
    return [revision.name for revision in assignment.revisions]


async def test_at_start_the_higher_generation_wins(tmp_path: Path) -> None:
    write_mount(tmp_path, an_assignment(1, A))
    first = Desk(tmp_path)
    await first.desk.restore()
    await first.desk.push(an_assignment(3, B, A, C, scale_3=90, scale_4=10))
    again = Desk(tmp_path)
    await again.desk.restore()
    [restored] = again.applied
    assert (restored.generation.sequence, restored.promoted) == (3, "scale-3")
    assert names(restored) == ["scale-3", "scale-2"]  # the mount names scale-2 as warm; the candidate is dropped
    write_mount(tmp_path, an_assignment(4, A))
    newest = Desk(tmp_path)
    await newest.desk.restore()
    assert newest.applied[0].generation.sequence == 4


async def test_without_any_source_nothing_is_applied(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ASSIGNMENT_FILE).write_bytes(b"{ half a file")
    pod = Desk(tmp_path)
    await pod.desk.restore()
    assert pod.applied == []
    assert pod.desk.last_failure is not None
    await pod.desk.push(an_assignment(1, A))
    assert names(pod.applied[0]) == ["scale-2"]


@pytest.mark.parametrize(
    ("assignment", "why"),
    [
        (an_assignment(2, A), "lower"),
        (an_assignment(5, A), "applied already, with other content"),
        (an_assignment(9, A).model_copy(update={"pod_uid": "uid-9"}), "for pod uid-9"),
        (an_assignment(9, A).model_copy(update={"schema_version": 99}), "not spoken here; expected 1"),
        (
            an_assignment(9, A).model_copy(
                update={"resource": an_assignment(9, A).resource.model_copy(update={"name": "x"})}
            ),
            "this pod serves",
        ),
    ],
)
async def test_what_cannot_be_taken_is_refused_and_noted(tmp_path: Path, assignment: Assignment, why: str) -> None:
    pod = Desk(tmp_path)
    await pod.desk.push(an_assignment(5, B))
    with pytest.raises(AssignmentRefusedError, match=why):
        await pod.desk.push(assignment)
    assert len(pod.applied) == 1


async def test_a_new_leader_counts_more_than_a_high_sequence(tmp_path: Path) -> None:
    pod = Desk(tmp_path)
    await pod.desk.push(an_assignment(50, A))
    newer = an_assignment(1, B).model_copy(update={"generation": Generation(transitions=1, sequence=1)})
    await pod.desk.push(newer)
    with pytest.raises(AssignmentRefusedError):
        await pod.desk.push(an_assignment(51, A))
    assert pod.desk.applied == newer


async def test_a_push_of_the_mounted_generation_adds_candidates(tmp_path: Path) -> None:
    write_mount(tmp_path, an_assignment(2, A))
    pod = Desk(tmp_path)
    await pod.desk.restore()
    await pod.desk.push(an_assignment(2, A, B))
    await pod.desk.push(an_assignment(2, A, B))
    assert [names(assignment) for assignment in pod.applied] == [["scale-2"], ["scale-2", "scale-3"]]


async def test_the_mount_is_watched_and_a_lower_one_is_only_noted(tmp_path: Path) -> None:
    write_mount(tmp_path, an_assignment(1, A))
    pod = Desk(tmp_path)
    await pod.desk.restore()
    watch = asyncio.create_task(pod.desk.watch(0.01))
    try:
        write_mount(tmp_path, an_assignment(3, B))
        await eventually(lambda: len(pod.applied) == 2)
        write_mount(tmp_path, an_assignment(2, A))
        await eventually(lambda: pod.desk.mounted is not None and pod.desk.mounted.generation.sequence == 2)
    finally:
        watch.cancel()
    assert pod.applied[-1].promoted == "scale-3"
    assert len(pod.applied) == 2


def test_before_anything_was_promoted_all_is_kept() -> None:
    first = an_assignment(1, A, B).model_copy(update={"promoted": None})
    assert without_candidates(first, None) == first


def test_a_restarted_container_makes_no_copies_for_a_candidate_that_it_dropped() -> None:
    shadow = Shadow(revision=B.name, percent=10)
    kept = an_assignment(2, A, B).model_copy(update={"shadow": shadow})
    restored = without_candidates(kept, an_assignment(1, A))
    assert restored.shadow is None
    assert [revision.name for revision in restored.revisions] == [A.name]
