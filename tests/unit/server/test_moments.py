"""Times that runs go back to."""

from __future__ import annotations

import pytest

from dstack.server.services.errors import BadRequest
from dstack.server.services.moments import Wanted, told

END = 253_402_300_800_000_000


@pytest.mark.parametrize(
    ("at", "words"), [(0, "1970-01-01 00:00:00 UTC"), (END - 1, "9999-12-31 23:59:59 UTC")], ids=["first", "last"]
)
def test_every_time_that_may_be_given_can_be_told(at: int, words: str) -> None:
    Wanted(at).check(fresh=False)
    assert told(at) == words


@pytest.mark.parametrize("at", [-1, END])
def test_others_are_refused(at: int) -> None:
    with pytest.raises(BadRequest, match="is no time"):
        Wanted(at).check(fresh=False)
