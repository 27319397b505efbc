"""What the code of a run had beyond its commit, as its submitter found it: for people, never used to restore."""

from __future__ import annotations

from uuid import UUID

import zstandard
from sqlalchemy import select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import submissions
from dstack.server.services.errors import NotFound, TooLarge

MOST = 5 << 20
"""Bytes of a text. The command line cuts at 1 MiB; odd bytes it writes as escapes, four times as long."""


def pack(text: str | None) -> bytes | None:
    """The text as `submissions.diff` keeps it. Raises TooLarge."""
    if text is None:
        return None
    data = text.encode()
    if len(data) > MOST:
        raise TooLarge(f"the difference from the commit is larger than {MOST} bytes", hint="cut it: people read it")
    return zstandard.ZstdCompressor().compress(data)


def of_run(tx: Transaction, project_id: UUID, run_id: UUID) -> str:
    """The text, empty where nothing was changed. Raises NotFound where none was sent."""
    found = tx.execute(
        select(submissions.c.diff).where(submissions.c.project_id == project_id, submissions.c.run_id == run_id)
    ).scalar()
    if found is None:
        raise NotFound(
            "the run was submitted without a difference from a commit",
            hint="it is recorded where the repository lies in a git work tree",
        )
    return zstandard.ZstdDecompressor().decompress(found, max_output_size=MOST).decode()
