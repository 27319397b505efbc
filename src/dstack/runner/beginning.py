"""The last snapshot of an earlier attempt, put back into the artifact folders before a job starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dstack.protocol.messages import EarlierSnapshot
from dstack.runner.environments import SetupError
from dstack.runner.threads import stoppable
from dstack.snapshots.errors import SnapshotError
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore


async def put_back(store: SnapshotStore, earlier: EarlierSnapshot, target: Path) -> None:
    """Make `target` hold what it held then; what else the code or an input brought there stays. Raises SetupError."""
    try:
        await stoppable(partial(_put, store, earlier.manifest_id, target))
    except SnapshotError as error:
        raise SetupError(
            f"the last snapshot of {earlier.path} (run {earlier.run_name}) cannot be put back: {error}; "
            "`dstack resume RUN --fresh` begins without it"
        ) from error


def words(earlier: EarlierSnapshot) -> str:
    """What the job's log begins with: why it does not start from nothing."""
    files = f"{earlier.files} file{'' if earlier.files == 1 else 's'}"
    whose = f"attempt {earlier.attempt}" if earlier.attempt else f"run {earlier.run_name}"
    return f"{earlier.path} begins with the last snapshot of {whose} ({files})"


def _put(store: SnapshotStore, manifest_id: bytes, target: Path, stopped: Callable[[], bool]) -> None:
    restore(store, manifest_id, target, stopped=stopped)
