"""When an outage is too long for readiness."""

from podium.serving.revisions.outage import Outage

GRACE = 30.0


def seen(*looks: tuple[float, bool], grace_s: float = GRACE) -> Outage:
    """An outage after looks, each (seconds since the one before, whether it was up)."""
    outage, now = Outage(), 1000.0
    for seconds, is_up in looks:
        now += seconds
        outage.note(now, is_up=is_up, grace_s=grace_s)
    return outage


def test_a_short_outage_is_within_the_grace() -> None:
    assert not seen((0, True), (29, False)).exceeds(GRACE)


def test_an_outage_as_long_as_the_grace_exceeds_it() -> None:
    assert seen((0, True), (30, False)).exceeds(GRACE)


def test_coming_up_ends_it_at_once() -> None:
    assert not seen((0, True), (600, False), (0.5, True)).exceeds(GRACE)


def test_a_moment_up_between_deaths_does_not_begin_the_grace_anew() -> None:
    flapping = [(10.0, False), (0.5, True)] * 4
    assert not seen((0, True), *flapping).exceeds(GRACE), "it is up at this moment"
    assert seen((0, True), *flapping, (1.0, False)).exceeds(GRACE)


def test_rare_short_outages_are_forgiven() -> None:
    assert not seen((0, True), *[(5.0, False), (60.0, True)] * 20, (5.0, False)).exceeds(GRACE)


def test_without_grace_any_outage_counts_and_only_while_it_lasts() -> None:
    assert not seen((0, True), (1, True), grace_s=0).exceeds(0)
    assert seen((0, True), (1, False), grace_s=0).exceeds(0)
