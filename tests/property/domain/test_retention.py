"""Which snapshots are kept: what must be true of any series of them, and the rules in words."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.retention import (
    DAY,
    FOREVER,
    HOUR,
    RULES,
    SECOND,
    Retention,
    RuleError,
    Snapshot,
    changed,
    going,
    words,
)

NOW = 1_700_000_000 * SECOND
lengths = st.sampled_from([SECOND, 600 * SECOND, HOUR, DAY, 7 * DAY, FOREVER])
rules = st.builds(
    Retention,
    live=lengths,
    every=lengths.filter(lambda value: value < FOREVER),
    last=st.integers(1, 5),
    partials=lengths,
)


@st.composite
def series(draw: st.DrawFn) -> list[Snapshot]:
    found: list[Snapshot] = []
    at = NOW - draw(st.integers(0, 20 * DAY))
    for attempt in range(draw(st.integers(0, 1)), draw(st.integers(2, 4))):
        for _ in range(draw(st.integers(0, 12))):
            at = min(NOW, at + draw(st.integers(0, 3 * HOUR)))
            live, pinned, holds = (draw(st.integers(0, 9)) for _ in range(3))
            found.append(Snapshot(UUID(int=len(found)), attempt, at, live > 0, pinned == 0, holds > 3))
    return found


def newest_held(snapshots: list[Snapshot]) -> Snapshot | None:
    return next((each for each in reversed(snapshots) if each.holds), None)


@given(series(), rules)
def test_what_never_goes(snapshots: list[Snapshot], kept: Retention) -> None:
    gone = going(snapshots, kept, NOW)
    last_attempt = max((each.attempt for each in snapshots), default=0)
    for each in gone:
        assert not each.pinned
        assert each is not snapshots[-1], "the newest of all"
        assert each is not newest_held(snapshots), "nor that of those that hold files"
        if each.attempt == last_attempt:
            assert each.live, "the last one of an attempt that nothing took the place of"
            assert each.at + kept.live <= NOW, "all of them for a while"
    for attempt in {each.attempt for each in snapshots}:
        of_attempt = [each for each in snapshots if each.attempt == attempt]
        if attempt == last_attempt:
            assert not set(of_attempt[-kept.last :]) & set(gone), "the last few"


@given(series(), rules)
def test_one_for_each_stretch_stays(snapshots: list[Snapshot], kept: Retention) -> None:
    left = [each for each in snapshots if each not in going(snapshots, kept, NOW)]
    last_attempt = max((each.attempt for each in snapshots), default=0)
    stretches = {each.at // kept.every for each in snapshots if each.live and each.attempt == last_attempt}
    assert {each.at // kept.every for each in left if each.live and each.attempt == last_attempt} == stretches
    last = [each for each in snapshots if each.attempt == last_attempt][-kept.last :]
    old = [
        each for each in left
        if each.live and not each.pinned and each.attempt == last_attempt and each.at + kept.live <= NOW
        and each not in last and each is not newest_held(snapshots)
    ]  # fmt: skip
    assert len(old) == len({each.at // kept.every for each in old}), "and no more than one"


@given(series(), rules)
def test_what_a_later_attempt_took_the_place_of_goes_in_time(snapshots: list[Snapshot], kept: Retention) -> None:
    firsts: dict[int, int] = {}
    for each in snapshots:
        firsts.setdefault(each.attempt, each.at)
    gone = set(going(snapshots, kept, NOW))
    for each in snapshots:
        later = [firsts[attempt] for attempt in firsts if attempt > each.attempt]
        if (
            later
            and not each.pinned
            and each is not newest_held(snapshots)
            and max(min(later), each.at) + kept.partials <= NOW
        ):
            assert each in gone
        if not later and not each.live:
            assert each not in gone


@given(series(), rules, st.integers(0, 10 * DAY))
def test_letting_go_often_loses_no_more_than_once(snapshots: list[Snapshot], kept: Retention, wait: int) -> None:
    once = [each for each in snapshots if each not in going(snapshots, kept, NOW + wait)]
    first = [each for each in snapshots if each not in going(snapshots, kept, NOW)]
    assert going(first, kept, NOW) == [], "what is left stays at the same moment"
    twice = [each for each in first if each not in going(first, kept, NOW + wait)]
    assert set(once) <= set(twice)


@given(rules)
def test_the_rules_in_words_are_the_rules(kept: Retention) -> None:
    assert changed(Retention(), words(kept)) == kept


def test_the_defaults() -> None:
    assert words(Retention()) == {"live": "1h", "every": "10m", "last": "3", "partials": "7d", "runs": "never"}
    assert set(RULES) == set(words(Retention()))
    given_rules = changed(Retention(), {"live": "90 minutes", "runs": "90d", "every": "1 hour", "partials": "forever"})
    assert words(given_rules) == {"live": "90m", "every": "1h", "last": "3", "partials": "never", "runs": "90d"}


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("lve", "1h", "there is no rule `lve`", "did you mean `live`?"),
        ("xyz", "1h", "there is no rule `xyz`", "the rules are live, every, last, partials, runs"),
        ("last", "0", "last: `0` is not a number of snapshots, 1 or more", "as in last=3"),
        ("last", "3h", "last: `3h` is not a number of snapshots, 1 or more", "as in last=3"),
        ("live", "1x", "live: `1x` is not a length of time", "as in 90s, 10m, 1h, 7d or 4w, or never"),
        ("every", "never", "every: `never` is not a length of time", "as in 90s, 10m, 1h, 7d or 4w"),
        ("runs", "0s", "runs: `0s` is not a length of time", "as in 90s, 10m, 1h, 7d or 4w, or never"),
        ("every", "0s", "every: `0s` is not a length of time", "as in 90s, 10m, 1h, 7d or 4w"),
        ("runs", "nevr", "runs: `nevr` is not a length of time", "did you mean `never`?"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(RuleError) as raised:
        changed(Retention(), {name: text})
    assert (str(raised.value), raised.value.hint) == (message, hint)
