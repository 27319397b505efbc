"""How far damage spreads: which objects cannot be read whole because of what they name.

Kept in a temporary SQLite file, which the operating system removes with the process: a store may have a thousand times
more objects than fit into memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from dstack.snapshots.interfaces import ChunkLocation

_PART: Final = 500
_TABLES: Final = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -16384;
    CREATE TABLE objects (id BLOB PRIMARY KEY, read INTEGER NOT NULL DEFAULT 0, kind BLOB, first BLOB, last BLOB)
        WITHOUT ROWID;
    CREATE INDEX unread ON objects (read) WHERE read = 0;
    CREATE TABLE edges (child BLOB, parent BLOB, PRIMARY KEY (child, parent)) WITHOUT ROWID;
    CREATE TABLE bad (id BLOB PRIMARY KEY, pack BLOB, what TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE hurt (id BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE broken (pack BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE chunks (pack BLOB, offset INTEGER, id BLOB, stored INTEGER, raw INTEGER, codec INTEGER,
                         PRIMARY KEY (pack, offset, id)) WITHOUT ROWID;
"""
_SPREAD: Final = """
    INSERT INTO hurt WITH RECURSIVE reached (id) AS (
        SELECT id FROM bad UNION SELECT parent FROM edges JOIN reached ON child = reached.id
    ) SELECT id FROM reached
"""


class Bad(NamedTuple):
    """A chunk that cannot be read. `pack_id` is where the catalog said it lies, None where it says nothing."""

    id: bytes
    pack_id: bytes | None
    what: str


class Spread:
    """For one thread; use as a context."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    # --- objects -----------------------------------------------------------------------------------------------

    def add_objects(self, ids: Iterable[bytes], kind: bytes = b"") -> None:
        """Objects to be read, which must begin with `kind`; those that are known already stay as they are."""
        self._many("INSERT OR IGNORE INTO objects (id, kind) VALUES (?, ?)", ((item, kind) for item in ids))

    def unread(self, limit: int) -> dict[bytes, bytes]:
        """Some objects that were not read yet, with how they must begin."""
        query = "SELECT id, kind FROM objects WHERE read = 0 LIMIT ?"
        return {row[0]: row[1] or b"" for row in self._database.execute(query, (limit,))}

    def mark_read(self, object_id: bytes, first: bytes = b"", last: bytes = b"") -> None:
        """`first` and `last` are the names in a directory."""
        self._database.execute(
            "INSERT OR REPLACE INTO objects (id, read, first, last) VALUES (?, 1, ?, ?)", (object_id, first, last)
        )

    def read_again(self) -> None:
        """All objects are to be read once more."""
        self._database.execute("UPDATE objects SET read = 0")

    def are_read(self, ids: Sequence[bytes]) -> set[bytes]:
        return self._among("SELECT id FROM objects WHERE read = 1 AND id IN", ids)

    def borders(self, object_id: bytes) -> tuple[bytes, bytes]:
        """The first and the last name in a directory that was read; empty for one that was not."""
        found = self._database.execute("SELECT first, last FROM objects WHERE id = ?", (object_id,)).fetchone()
        return (found[0] or b"", found[1] or b"") if found else (b"", b"")

    # --- damage ------------------------------------------------------------------------------------------------

    def mark_bad(self, bad: Bad) -> bool:
        """False where that was known."""
        return self._database.execute("INSERT OR IGNORE INTO bad VALUES (?, ?, ?)", bad).rowcount == 1

    def forget_bad(self, ids: Iterable[bytes]) -> None:
        self._many("DELETE FROM bad WHERE id = ?", ((item,) for item in ids))

    def bad_among(self, ids: Sequence[bytes]) -> set[bytes]:
        return self._among("SELECT id FROM bad WHERE id IN", ids)

    def all_bad(self) -> Iterator[Bad]:
        """In order of ids. What is changed meanwhile may be seen or not."""
        yield from (Bad(*row) for row in self._rows("SELECT id, pack, what FROM bad WHERE id > ? ORDER BY id LIMIT ?"))

    @property
    def any_bad(self) -> bool:
        return bool(self._column("SELECT 1 FROM bad LIMIT 1", ()))

    def mark_broken(self, pack_id: bytes) -> None:
        """A pack that is not as it was written, or gone."""
        self._database.execute("INSERT OR IGNORE INTO broken VALUES (?)", (pack_id,))

    def all_broken(self) -> Iterator[bytes]:
        yield from (row[0] for row in self._rows("SELECT pack FROM broken WHERE pack > ? ORDER BY pack LIMIT ?"))

    # --- what it reaches ---------------------------------------------------------------------------------------

    def link(self, parent: bytes, children: Iterable[bytes]) -> None:
        """`parent` names `children`: without them it is of no use."""
        self._many("INSERT OR IGNORE INTO edges VALUES (?, ?)", ((child, parent) for child in children))

    def spread(self) -> None:
        """Work out what is hurt: what is bad, and whatever names it, directly or not."""
        self._database.execute("DELETE FROM hurt")
        self._database.execute(_SPREAD)

    def hurt_among(self, ids: Sequence[bytes]) -> set[bytes]:
        return self._among("SELECT id FROM hurt WHERE id IN", ids)

    def hurt_objects(self) -> Iterator[bytes]:
        """What is hurt and not bad itself, in order."""
        query = "SELECT id FROM hurt WHERE id > ? AND id NOT IN (SELECT id FROM bad) ORDER BY id LIMIT ?"
        yield from (row[0] for row in self._rows(query))

    # --- chunks to be read, in the order of the packs -------------------------------------------------------------

    def add_chunks(self, located: Iterable[tuple[bytes, ChunkLocation]]) -> None:
        self._many(
            "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
            ((p.pack_id, p.offset, item, p.stored_length, p.raw_length, p.codec) for item, p in located),
        )

    def chunk_bytes(self) -> int:
        """Stored bytes of all chunks that were added."""
        return self._database.execute("SELECT coalesce(sum(stored), 0) FROM chunks").fetchone()[0]

    def chunks(self) -> Iterator[list[tuple[bytes, ChunkLocation]]]:
        """The chunks of one pack after the other."""
        for pack_id in self.packs():
            query = "SELECT id, offset, stored, raw, codec FROM chunks WHERE pack = ? ORDER BY offset"
            yield [(row[0], ChunkLocation(pack_id, *row[1:])) for row in self._database.execute(query, (pack_id,))]

    def packs(self) -> Iterator[bytes]:
        """The packs that the chunks lie in."""
        query = "SELECT DISTINCT pack FROM chunks WHERE pack > ? ORDER BY pack LIMIT ?"
        yield from (row[0] for row in self._rows(query))

    # --- SQL ---------------------------------------------------------------------------------------------------

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._database.executemany(statement, rows)

    def _column(self, query: str, values: tuple[object, ...]) -> list[bytes]:
        return [row[0] for row in self._database.execute(query, values)]

    def _among(self, query: str, ids: Sequence[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        rest = iter(dict.fromkeys(ids))
        while part := list(islice(rest, _PART)):
            marks = ",".join("?" * len(part))
            found.update(row[0] for row in self._database.execute(f"{query} ({marks})", part))
        return found

    def _rows(self, query: str) -> Iterator[Any]:
        """All rows of a query that goes on behind its first column."""
        last = b""
        while rows := self._database.execute(query, (last, _PART)).fetchall():
            yield from rows
            last = rows[-1][0]
