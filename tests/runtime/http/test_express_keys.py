"""API keys on the express lane: known ones take it, and a head is known only as long as its key is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from podium.http.inference.express import ExpressLane
from podium.http.inference.routes import HotRoute
from podium.http.transport.api_keys import LOOK_EVERY_S, ApiKeys
from podium_crds.assignment import ResourceKind

PATH = b"/v2/models/scale/infer"
ALICE = b"alice-" + b"a" * 20
BODY = b'{"inputs": []}'
LENGTH = (b"content-length", str(len(BODY)).encode())


class Clock:
    """Stands still unless told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "alice").write_bytes(ALICE)
    return tmp_path


@pytest.fixture
def lane(folder: Path, clock: Clock) -> ExpressLane:
    """For the model `scale`, behind the keys of the folder."""
    revision = SimpleNamespace(spec=SimpleNamespace(graph=None))
    table = SimpleNamespace(routes={(ResourceKind.MODEL, "scale"): SimpleNamespace(loaded=[revision])})
    residents: Any = SimpleNamespace(router=SimpleNamespace(table=table), drain=SimpleNamespace(is_closing=False))
    door: Any = SimpleNamespace(
        keys=ApiKeys(folder, clock),
        access_log=SimpleNamespace(enabled=False),
        spans=None,
        codecs=None,
        lending=None,
        limits=SimpleNamespace(json_bytes=1 << 20, body_bytes=1 << 20),
    )
    return ExpressLane(residents, door, clock)


def takes(lane: ExpressLane, *given: tuple[bytes, bytes]) -> HotRoute | None:
    return lane.takes(b"POST", PATH, [LENGTH, *given])


def sent(*given: tuple[bytes, bytes]) -> bytes:
    """A whole request."""
    lines = b"".join(b"%b: %b\r\n" % header for header in (LENGTH, *given))
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (PATH, lines, BODY)


def test_one_known_key_takes_it_in_either_header(lane: ExpressLane) -> None:
    assert takes(lane, (b"x-api-key", ALICE))
    assert takes(lane, (b"authorization", b"Bearer " + ALICE))


@pytest.mark.parametrize(
    "given",
    [
        (),
        ((b"x-api-key", b"wrong" * 5),),
        ((b"authorization", b"Basic " + ALICE),),
        ((b"x-api-key", ALICE), (b"x-api-key", ALICE)),
        ((b"x-api-key", ALICE), (b"authorization", b"Bearer wrong")),
    ],
    ids=["none", "unknown", "basic", "twice", "two"],
)
def test_anything_else_goes_the_usual_way_which_says_what_is_wrong(
    lane: ExpressLane, given: tuple[tuple[bytes, bytes], ...]
) -> None:
    assert takes(lane, *given) is None


def test_a_head_is_known_until_its_key_is_taken_away(lane: ExpressLane, folder: Path, clock: Clock) -> None:
    given = (b"x-api-key", ALICE)
    route = takes(lane, given)
    assert route
    lane.learn(sent(given), route, [LENGTH, given])
    assert lane.takes_again(sent(given)) == (route, BODY)
    (folder / "alice").unlink()
    clock.now += LOOK_EVERY_S
    assert lane.takes_again(sent(given)) is None
    assert takes(lane, given) is None
    assert lane.takes_again(sent(given)) is None


def test_other_keys_that_are_read_leave_nothing_known_that_was_not_judged_since(
    lane: ExpressLane, folder: Path, clock: Clock
) -> None:
    given, bob = (b"x-api-key", ALICE), (b"x-api-key", b"bob-" + b"b" * 20)
    route = takes(lane, given)
    assert route
    lane.learn(sent(given), route, [LENGTH, given])
    (folder / "alice").unlink()
    (folder / "bob").write_bytes(bob[1])
    clock.now += LOOK_EVERY_S
    assert takes(lane, bob)
    assert lane.takes_again(sent(given)) is None
