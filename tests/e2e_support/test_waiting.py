"""Waits return what they saw, and on failure show it."""

from __future__ import annotations

import pytest
from e2e.support.waiting import NotSeenError, eventually


def test_the_first_observation_that_holds_is_returned() -> None:
    numbers = iter(range(10))
    assert eventually("three", lambda: next(numbers), lambda n: n == 3, timeout=5, every=0) == 3


def test_a_deadline_shows_the_last_observation() -> None:
    with pytest.raises(NotSeenError, match=r"(?s)never: .*last seen.*blue"):
        eventually("never", lambda: {"sky": "blue"}, lambda _: False, timeout=0, every=0)


def test_an_observation_is_made_even_without_time() -> None:
    assert eventually("now", lambda: 1, lambda n: n == 1, timeout=0) == 1
