"""`dstack run -d`: submit and return, but not before it is known that the run can run at all."""

from __future__ import annotations

import os
import sys
import time

from dstack.cli.render import paint, say, show_table, write_json
from dstack.client.api import ApiError, Unreachable
from dstack.client.frames import BadFrame, read_frames
from dstack.client.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api
    from dstack.client.types import Run

PATIENCE = 10.0
"""Seconds for the first runner of a server that was just started to say what it has."""


def detach(api: Api, submitted: Run, *, as_json: bool) -> int:
    """Tell of the run; the exit code: that of the run where it has failed already, else 0."""
    name = submitted.get("name", "")
    run = _verdict(api, submitted) if submitted.get("undecided") else submitted
    failed = run.get("status") == "failed"
    if as_json:
        write_json([run])
    elif os.isatty(1):
        show_table(run)
        if not failed:
            say(f"Follow it with: dstack logs -f {name}")
    else:
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
    if not failed:
        return 0
    say(f"{paint(f'{name} failed', 'red', sys.stderr)}: {run.get('reason_text') or 'failed'}")
    return run.get("exit_code") or 1


def _verdict(api: Api, submitted: Run) -> Run:
    """The run once it is clear that a runner takes it or that none can; as it is when that takes too long."""
    name = submitted.get("name", "")
    until = time.monotonic() + PATIENCE
    try:
        for frame, _ in read_frames(api.logs(name, follow=True)):
            if frame.get("t") == "end":
                return frame.get("run") or submitted
            begun = frame.get("t") == "job" and frame.get("status") not in ("waiting", "queued")
            if begun or time.monotonic() > until:
                break
        api.drop()
        return api.run(name)
    except (ApiError, BadFrame, Unreachable, WireError):
        api.drop()
        return submitted  # it was accepted, which is all that was asked for
