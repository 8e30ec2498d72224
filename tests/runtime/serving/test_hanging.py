"""When a forward counts as hung."""

from podium.serving.dispatch.hanging import HANG_GRACE_S, hung_at, warm_up_hung_at
from podium_crds.assignment import Artifact, EngineKind, EngineSpec, Member


def test_every_warm_up_has_all_of_its_time_however_long_it_waited() -> None:
    member = Member(
        name="m",
        load_hash="h",
        version="1",
        artifact=Artifact(),
        engine=EngineSpec(kind=EngineKind.PYTHON, entrypoint="model:Model"),
        timeout_seconds=600,
        hang_timeout_seconds=1,
        warmup_timeout_seconds=60,
    )
    assert warm_up_hung_at(member, 100.0) == 160.0 + HANG_GRACE_S
    assert hung_at(member, 100.0, 130.0) == 101.0
