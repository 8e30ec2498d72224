"""A head is known by all of its bytes, and only with the body that it announces."""

from podium.http.inference.heads import MAX_KNOWN, MAX_KNOWN_BYTES, KnownHeads
from podium.http.inference.routes import HotRoute

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


def a_route() -> HotRoute:
    route = HotRoute.of("/v2/models/m/infer")
    assert route is not None
    return route


def test_the_same_head_is_found_with_another_body() -> None:
    heads, route = KnownHeads(), a_route()
    heads.learn(HEAD + b"abcd", route, 4)
    assert heads.find(HEAD + b"efgh") == (route, b"efgh")


def test_a_body_of_another_length_is_not_taken() -> None:
    heads = KnownHeads()
    heads.learn(HEAD + b"abcd", a_route(), 4)
    for body in (b"", b"abc", b"abcde", b"abcd" + HEAD + b"abcd"):
        assert heads.find(HEAD + body) is None


def test_a_head_with_one_other_byte_is_not_known() -> None:
    heads = KnownHeads()
    heads.learn(HEAD + b"abcd", a_route(), 4)
    for at in range(len(HEAD)):
        changed = bytearray(HEAD)
        changed[at] ^= 1
        assert heads.find(bytes(changed) + b"abcd") is None


def test_more_than_one_request_teaches_nothing() -> None:
    heads = KnownHeads()
    heads.learn(HEAD + b"abcd" + HEAD + b"abcd", a_route(), 4)
    heads.learn(b"\r\n\r\n" + HEAD + b"abcd", a_route(), 4)
    assert heads.find(HEAD + b"abcd") is None


def test_what_is_kept_has_a_bound_and_long_heads_are_not_kept() -> None:
    heads, route = KnownHeads(), a_route()
    for number in range(3 * MAX_KNOWN):
        heads.learn(b"%d" % number + HEAD + b"abcd", route, 4)
    assert len(heads._heads) <= MAX_KNOWN
    long = HEAD.replace(b"x", b"x" * MAX_KNOWN_BYTES)
    heads.learn(long + b"abcd", route, 4)
    assert heads.find(long + b"abcd") is None


def test_nothing_is_known_once_the_routes_have_changed() -> None:
    heads = KnownHeads()
    heads.learn(HEAD + b"abcd", a_route(), 4)
    heads.clear()
    assert heads.find(HEAD + b"abcd") is None
