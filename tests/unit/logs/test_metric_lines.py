"""Which lines are metrics, and what they say."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.logs.metric_lines import MAX_LINE, Source, parse, place_of


def test_numbers_by_name_with_step_and_time() -> None:
    found = parse(b'{"step": 3, "loss": 0.25, "val": {"acc": 1, "name": "x"}, "time": 1700000000.5, "ok": true}\n')
    assert found is not None
    assert (found.step, found.at) == (3, 1_700_000_000_500_000)
    assert found.values == {"loss": 0.25, "val/acc": 1.0}


@pytest.mark.parametrize("name", ["global_step", "iteration", "iter", "epoch"])
def test_other_words_for_a_step(name: str) -> None:
    found = parse(json.dumps({name: 7.0, "loss": 1}).encode())
    assert found is not None
    assert (found.step, found.values) == (7, {"loss": 1.0})


def test_an_epoch_beside_a_step_is_a_value() -> None:
    found = parse(b'{"step": 12, "epoch": 1.5, "loss": 1}')
    assert found is not None
    assert (found.step, found.values) == (12, {"epoch": 1.5, "loss": 1.0})


def test_what_is_not_finite_is_kept() -> None:
    found = parse(b'{"loss": NaN, "norm": Infinity}')
    assert found is not None
    assert math.isnan(found.values["loss"])
    assert found.values["norm"] == math.inf


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{}",
        b"loss: 3",
        b'{"step": 3}',
        b'{"name": "x"}',
        b"{'loss': 0.5}",
        b'{"loss": 0.5} trailing',
        b"[1, 2]",
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"loss": 1' + b" " * MAX_LINE + b"}",
        b'{"id": ' + b"9" * 400 + b"}",
    ],
)
def test_what_is_no_line_of_metrics(line: bytes) -> None:
    assert parse(line) is None


def test_a_log_message_with_numbers_is_none_among_output() -> None:
    line = b'{"level": "info", "msg": "saved", "line": 12}'
    assert parse(line, strict=True) is None
    assert parse(line) is not None


def test_places_of_different_sources_never_meet() -> None:
    assert len({place_of(source, offset) for source in Source for offset in range(50)}) == 150


@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: f'{{"{text}": 1}}'.encode()))
def test_nothing_that_is_printed_can_crash_it(line: bytes) -> None:
    parse(line)
    parse(line, strict=True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=5))
def test_every_value_is_a_float_under_a_name(record: dict[str, object]) -> None:
    found = parse(json.dumps(record).encode())
    if found is not None:
        assert found.values
        assert all(isinstance(value, float) for value in found.values.values())
