"""What a plan says will change."""

from tests.support.builders import a_desired

from podium_crds.revision import MemberRecord, RevisionRecord
from podium_operator.rollout.changes import changes


def with_files(record: RevisionRecord, text: str) -> RevisionRecord:
    def member(each: MemberRecord) -> MemberRecord:
        return each.model_copy(update={"files": {"model.py": text}})

    return record.model_copy(update={"members": tuple(map(member, record.members))})


def test_files_of_a_config_map_are_named_where_they_changed() -> None:
    old = a_desired("1").target.record
    (line,) = changes(with_files(old, "one"), with_files(old, "two"))
    assert ".files: " in line


def test_files_that_stay_the_same_are_no_change_whatever_else_is() -> None:
    old, new = a_desired("1").target.record, a_desired("2").target.record
    said = changes(with_files(old, "one"), with_files(new, "one"))
    assert said != ()
    assert not any(".files" in line for line in said), said
