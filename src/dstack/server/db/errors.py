"""What can go wrong between dstack and its database, in words for the person who runs the server.

    DatabaseError
    ├── DatabaseUnavailable        not reachable, locked, or restarting: the same call may work later (HTTP 503)
    │   └── CommitUnknown          the connection broke while a commit was under way: it happened or it did not
    ├── DatabaseReadOnly           the file, folder or server accepts no writes
    ├── DatabaseFull               no space left where the database lives
    ├── DatabaseDamaged            the file is not a database, or not a whole one
    └── SchemaTooNew               a newer dstack has written it (raised by `upgrade.ensure_schema`)

A violated constraint stays SQLAlchemy's `IntegrityError`: it speaks of the caller's rows, not of the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

RETRY_AFTER_SECONDS = 2
"""What a 503 tells its caller; recovery within 10 s of the database's return leaves room for several tries."""


class DatabaseError(Exception):
    """The database, not the request, is what failed; `str()` says where and what to do."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be used just now; nothing of this call was stored."""


class CommitUnknown(DatabaseUnavailable):
    """The connection broke during a commit, so only reading tells whether it was stored."""


class DatabaseReadOnly(DatabaseError):
    """The database can be read but not written."""


class DatabaseFull(DatabaseError):
    """There is no space left where the database lives; nothing of this call was stored."""


class DatabaseDamaged(DatabaseError):
    """What is at the place of the database is not one, or no longer whole."""


class SchemaTooNew(DatabaseError):
    """The database was written by a newer dstack than this one."""


def from_sqlite(error: BaseException, path: str) -> DatabaseError | None:
    """The error of ours that `error` stands for, None if it is about something else; `path` is the file."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, sqlite3.Error):
        return None
    describe = _SQLITE.get((getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF)
    return None if describe is None else describe(path, str(cause))


def _sqlite_locked(path: str, detail: str) -> DatabaseError:
    return DatabaseUnavailable(
        f"the database {path} is locked by another program ({detail}). "
        "Close whatever else has it open (a backup, a database browser, another dstack server) and try again."
    )


def _sqlite_read_only(path: str, detail: str) -> DatabaseError:
    return DatabaseReadOnly(
        f"the database {path} cannot be written ({detail}). "
        "Make the file and its folder writable for this user, or set DSTACK_HOME to a folder that is."
    )


def _sqlite_unopened(path: str, detail: str) -> DatabaseError:
    return DatabaseUnavailable(
        f"the database {path} cannot be opened ({detail}). "
        "Check that its folder exists, that this user may write there, and that it is not a folder itself."
    )


def _sqlite_full(path: str, detail: str) -> DatabaseError:
    return DatabaseFull(
        f"there is no space left for the database {path} ({detail}). "
        "Free some space there (`dstack gc` removes unreferenced artifacts), then try again; nothing was lost."
    )


def _sqlite_io(path: str, detail: str) -> DatabaseError:
    return DatabaseUnavailable(
        f"reading or writing the database {path} failed ({detail}). "
        "Check the disk it is on; a database on a network file system is not supported."
    )


def _sqlite_damaged(path: str, detail: str) -> DatabaseError:
    return DatabaseDamaged(
        f"the file {path} is damaged or no database ({detail}). Restore it from a backup, or move it away "
        "(with its -wal and -shm files) to start with an empty one."
    )


_SQLITE: dict[int, Callable[[str, str], DatabaseError]] = {
    sqlite3.SQLITE_BUSY: _sqlite_locked,
    sqlite3.SQLITE_LOCKED: _sqlite_locked,
    sqlite3.SQLITE_PROTOCOL: _sqlite_locked,
    sqlite3.SQLITE_READONLY: _sqlite_read_only,
    sqlite3.SQLITE_PERM: _sqlite_read_only,
    sqlite3.SQLITE_CANTOPEN: _sqlite_unopened,
    sqlite3.SQLITE_FULL: _sqlite_full,
    sqlite3.SQLITE_IOERR: _sqlite_io,
    sqlite3.SQLITE_CORRUPT: _sqlite_damaged,
    sqlite3.SQLITE_NOTADB: _sqlite_damaged,
}


def from_postgresql(error: DBAPIError, where: str) -> DatabaseError | None:
    """The error of ours that `error` stands for, None if it is about something else.

    `where` is the server's address without its password. Codes: PostgreSQL documentation, appendix A.
    """
    state = sqlstate(error)
    detail = str(error.orig).strip().splitlines()[0] if error.orig and str(error.orig).strip() else "no details"
    if state == "53100":
        return DatabaseFull(f"the disk of the database {where} is full ({detail}). Free some space on that machine.")
    if state == "25006":
        return DatabaseReadOnly(
            f"the database {where} accepts no writes ({detail}). It may be a standby: point dstack at the primary."
        )
    if state == "53300":
        return DatabaseUnavailable(
            f"the database {where} has no connection to spare ({detail}). "
            "Raise its max_connections, or end other programs that hold some."
        )
    if not state and "FATAL" in detail:  # refused while connecting, where the driver hands on no code
        return DatabaseUnavailable(
            f"the database {where} refused the connection ({detail}). dstack tries again by itself; if it stays so, "
            "check user, password and database name in its URL, and the server's max_connections."
        )
    if error.connection_invalidated or _is_disconnect(state, error):
        return DatabaseUnavailable(
            f"the database {where} cannot be reached ({detail}). dstack goes on by itself once it is back."
        )
    if state in RETRIED:
        return DatabaseUnavailable(
            f"the database {where} had too many conflicting writes at once ({detail}). Try again shortly."
        )
    return None


def all_busy(where: str) -> DatabaseUnavailable:
    """The error for a pool that had no connection free in time."""
    return DatabaseUnavailable(
        f"every connection of this server to the database {where} is busy. Try again shortly; if it stays so, "
        "look there (pg_stat_activity) for what they wait for."
    )


RETRIED = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the same transaction, run again, can succeed."""


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's five-character code of an error; empty where the server never answered."""
    return getattr(error.orig, "sqlstate", None) or ""


def _is_disconnect(state: str, error: DBAPIError) -> bool:
    # 08…: connection exceptions; 57P01-5: shut down, crashed, starting up; none: the socket failed.
    if state:
        return state.startswith(("08", "57P"))
    return isinstance(error, OperationalError | InterfaceError)
