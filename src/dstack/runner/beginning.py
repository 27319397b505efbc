"""The last snapshot of an earlier attempt, put back into the artifact folders before a job starts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dstack.domain.resuming import Instead
from dstack.protocol.messages import EarlierSnapshot
from dstack.runner.environments import SetupError
from dstack.runner.threads import stoppable
from dstack.snapshots.errors import SnapshotError
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore

_SHOWN = 12
"""Digits of a snapshot's id that people see."""
_INSTEAD: dict[str, str] = {
    Instead.ASKED: ", as was asked for",
    Instead.EMPTY: "; later ones hold no file: stop it, and `dstack resume {run} --fresh` begins with nothing",
    Instead.LOST: "; later ones are not whole in the store any more",
}


async def put_back(store: SnapshotStore, run_name: str, earlier: EarlierSnapshot, target: Path) -> None:
    """Make `target` hold what it held then; what else the code or an input brought there stays. Raises SetupError that
    says how a run that follows `run_name` can do without."""
    try:
        await stoppable(partial(_put, store, earlier.manifest_id, target))
    except SnapshotError as error:
        older = ""
        if earlier.older is not None:
            older = (
                f"`dstack resume {earlier.run_name} --at {earlier.older.hex()[:_SHOWN]}` begins with the one before "
                f"it, `dstack artifacts log {earlier.run_name}` lists all, "
            )
        raise SetupError(
            f"snapshot {earlier.manifest_id.hex()[:_SHOWN]} of {earlier.path} ({_whose(earlier)}) cannot be put back: "
            f"{str(error).rstrip('.')}; {older}`dstack resume {run_name} --fresh` begins without any"
        ) from error


def words(earlier: EarlierSnapshot) -> str:
    """What the job's log begins with: why it does not start from nothing."""
    files = f"{earlier.files} file{'' if earlier.files == 1 else 's'}"
    why = _INSTEAD.get(earlier.instead)
    if why is None:
        return f"{earlier.path} begins with the last snapshot of {_whose(earlier)} ({files})"
    at = datetime.fromtimestamp(earlier.taken_at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    told = why.format(run=earlier.run_name)
    return f"{earlier.path} begins with a snapshot of {_whose(earlier)}, taken at {at} UTC ({files}){told}"


def _whose(earlier: EarlierSnapshot) -> str:
    return f"attempt {earlier.attempt}" if earlier.attempt else f"run {earlier.run_name}"


def _put(store: SnapshotStore, manifest_id: bytes, target: Path, stopped: Callable[[], bool]) -> None:
    restore(store, manifest_id, target, stopped=stopped)
