"""The migrations: one file per revision under `versions/`, never changed once released.

Names that opening an up-to-date database needs, so that it need not import alembic.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every revision this version of dstack knows, oldest first; the last one is what its tables look like."""

HEAD = REVISIONS[-1]
