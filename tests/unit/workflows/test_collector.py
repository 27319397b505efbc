"""The collector is as it was once files are read, whatever they held."""

from __future__ import annotations

import gc

import pytest

from dstack.providers import registry
from dstack.workflows import Invalid, load
from dstack.workflows.collector import paused


def test_it_goes_on_afterwards() -> None:
    with paused():
        assert not gc.isenabled()
        with paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_wrong_file() -> None:
    with pytest.raises(Invalid):
        load({".dstack/workflows.yaml": "workflows: [a: b"}, registry())

    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
