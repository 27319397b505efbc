"""What the commands that start a run share: it is sent once, and followed unless it is to be left alone."""

from __future__ import annotations

import sys

from dstack.cli.render import diagnostics_text, show_table
from dstack.client.api import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from dstack.cli.session import Session
    from dstack.client.types import Run

    T = TypeVar("T")


def send(call: Callable[[], T], ship_again: Callable[[], None] | None) -> T:
    """The answer to `call`, which is repeated where the server lost, or was never given, what the cache says it has.

    `ship_again` sends the code before that; None where none goes along.
    """
    try:
        return call()
    except ApiError as error:
        if error.code not in ("code-missing", "storage") or ship_again is None:
            raise
    ship_again()
    return call()


def stay(
    session: Session, submitted: Run, *, root: str | None, tags: Sequence[str], as_json: bool, detach: bool
) -> int:
    """Follow a run to its end, unless `detach`; the exit code. `root`: the repository that hints look into."""
    if submitted.get("warnings"):
        sys.stderr.write(diagnostics_text(submitted.get("warnings", [])))
    if detach:
        from dstack.cli.detach import detach as leave

        return leave(session.api, submitted, as_json=as_json)
    from dstack.cli.attach import attach

    if not as_json:
        show_table(submitted, tags)
    session.accept_newer_server()
    return attach(session.api, submitted, as_json=as_json, root=root, tags=tags)
