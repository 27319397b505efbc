"""Settings from the environment, for the server and the runner alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.runner import settings as runner
from dstack.server import settings as server


def test_each_kind_of_field_is_read() -> None:
    given = {"DSTACK_SERVER_LEASE": "2.5", "DSTACK_SERVER_PORT": "80", "DSTACK_SERVER_LOCAL_RUNNER": "False"}
    found = server.from_environment(server.Settings(home=Path("/h")), given)
    assert (found.lease, found.port, found.local_runner) == (2.5, 80, False)
    assert runner.from_environment(runner.Settings(home=Path("/h")), {"DSTACK_RUNNER_LOCAL": "true"}).local


@pytest.mark.parametrize("text", ["yes", ""])
def test_what_cannot_be_read_names_its_variable(text: str) -> None:
    with pytest.raises(ValueError, match=f"DSTACK_RUNNER_LOCAL=`{text}` cannot be read as bool"):
        runner.from_environment(runner.Settings(home=Path("/h")), {"DSTACK_RUNNER_LOCAL": text})
