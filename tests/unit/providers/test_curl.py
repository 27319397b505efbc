from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dstack.sdk.provider import JobSpec

Planned = Callable[..., JobSpec]
URL = "https://example.com/a?b=c&d"


def test_it_downloads_into_an_artifact(planned: Planned) -> None:
    job = planned("curl", {"url": URL, "output": "./raw/x.tgz", "artifacts": ["raw"]})

    assert job.argv[0] == "curl"
    assert job.argv[-4:] == ("--output", "raw/x.tgz", "--url", URL)
    assert "--fail" in job.argv, "an error page is not the data"
    assert (job.artifacts, job.python) == (("raw",), None)


@pytest.mark.parametrize(
    "keys",
    [
        {}, {"url": URL}, {"url": URL, "output": "x"}, {"url": URL, "output": "raw/x"},
        {"url": URL, "output": "raw", "artifacts": ["raw"]}, {"url": URL, "output": "/raw/x", "artifacts": ["raw"]},
        {"url": URL, "output": "raw/x", "artifacts": ["raw"], "commands": ["b"]},
    ],
)  # fmt: skip
def test_what_would_be_lost(keys: dict[str, object], planned: Planned) -> None:
    with pytest.raises(ValidationError):
        planned("curl", keys)
