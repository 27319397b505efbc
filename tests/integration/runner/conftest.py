from __future__ import annotations

import pytest

from dstack.runner.executors import cgroup


@pytest.fixture(params=["environment", "cgroup"])
def groups(request: pytest.FixtureRequest) -> cgroup.Groups | None:
    """How a job's processes are found: by their environment alone, or by a control group where one is to be had."""
    if request.param == "environment":
        return None
    found, why = cgroup.detect()
    assert (found is None) == bool(why)
    return found
