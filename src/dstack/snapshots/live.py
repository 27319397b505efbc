"""Saving a job's artifacts while it writes them: a snapshot per quiet period, and one now and then without any quiet.

The kernel tells what changed (watchfiles). Because it may forget to (queue overflow, network file systems), the
folders are walked once per `rescan` anyway, which reads nothing where nothing changed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from watchfiles import Change, watch

from dstack.domain.ports import Clock, SystemClock
from dstack.snapshots.capture import save
from dstack.snapshots.errors import CaptureFailed, SnapshotError
from dstack.snapshots.statcache import FileCache, SavedSnapshot
from dstack.snapshots.store import SnapshotStore

Snapshots = Mapping[str, SavedSnapshot]
"""By artifact path."""

STEP: Final = 100
"""Milliseconds within which changes come as one, and within which the thread ends once told to."""
LOOK: Final = 500
"""Milliseconds after which the thread looks at the clock when nothing changes."""
REST: Final = 10
"""How long the next snapshot waits, in times of what walking the folders for the last one took: with 100,000 files some
4 s, so that a folder that is written to all the time costs a tenth of a processor and no more."""

_log = logging.getLogger(__name__)


class QuietPeriod:
    """When the next snapshot is due. Times are seconds of a monotonic clock."""

    def __init__(self, now: float, *, quiet: float, max_interval: float, rescan: float) -> None:
        self._quiet = quiet
        self._max_interval = max_interval
        self._rescan = rescan
        self._looked = now
        self._first: float | None = None
        self._last = now
        self._resting = now

    def changed(self, now: float) -> None:
        """Something was written."""
        if self._first is None:
            self._first = now
        self._last = now

    def due(self, now: float) -> bool:
        if now < self._resting:
            return False
        if self._first is None:
            return now - self._looked >= self._rescan
        return now - self._last >= self._quiet or now - self._first >= self._max_interval

    def taken(self, now: float) -> None:
        """A snapshot was begun."""
        self._looked = now
        self._first = None

    def ended(self, now: float, busy: float) -> None:
        """It took `busy` seconds of a processor beside the reading of large files."""
        self._resting = now + min(busy * REST, self._max_interval)


class Patience:
    """When a store that refuses is tried again: after `first` seconds, then twice as long each time, up to MOST."""

    MOST: Final = 60.0

    def __init__(self, first: float) -> None:
        self._first = first
        self._pause = 0.0

    def refused(self) -> float:
        """Seconds until the next try."""
        self._pause = min(self._pause * 2 or self._first, max(self.MOST, self._first))
        return self._pause

    def accepted(self) -> None:
        self._pause = 0.0


class LiveCapture:
    """Watches artifact folders and saves those that changed. `start`, then `stop` or `final`, once each.

    `paths` are the artifact paths, relative to `root`. `on_snapshot` gets the snapshots that differ from the ones
    before, in the capture's thread. Where a live snapshot fails, snapshots pause, for `retry` seconds and then ever
    longer, and `on_problem` is told why, and None once they go on: only the last one decides whether the artifacts are
    saved.
    """

    def __init__(
        self,
        root: Path,
        paths: Iterable[str],
        store: SnapshotStore,
        on_snapshot: Callable[[Snapshots], None],
        on_problem: Callable[[Exception | None], None] = lambda _: None,
        *,
        quiet: float = 2.0,
        max_interval: float = 30.0,
        rescan: float = 30.0,
        retry: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self._root = root
        self._folders = {path: root / path for path in paths}
        self._store = store
        self._on_snapshot = on_snapshot
        self._on_problem = on_problem
        self._rescan = rescan
        self._clock = clock or SystemClock()
        self._schedule = QuietPeriod(self._clock.monotonic(), quiet=quiet, max_interval=max_interval, rescan=rescan)
        self._caches = {path: FileCache() for path in self._folders}
        self._latest: dict[str, bytes] = {}
        self._patience = Patience(retry)
        self._again: float | None = None
        """When a store that refused is tried again; None where nothing was refused."""
        self._stopped = threading.Event()
        self._abandoned = threading.Event()
        self._saving = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="dstack-live-capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more snapshots; waits for the one that is being taken. The thread ends within STEP."""
        self._stopped.set()
        with self._saving:
            pass

    def final(self) -> dict[str, SavedSnapshot]:
        """Stop, and save every folder for good. To be called when the job has ended.

        Raises CaptureFailed where a folder is gone, is none, may not be read, or is a link that leads out of `root`,
        and where it was abandoned; StoreRefused, and what the catalog raises. Where one folder cannot be saved, the
        others are, and are told of as snapshots.
        """
        self.stop()
        saved: dict[str, SavedSnapshot] = {}
        failed: CaptureFailed | None = None
        for path in self._folders:
            try:
                saved[path] = self._save(path, live=False)
            except CaptureFailed as error:
                failed = failed or error
        if failed is None:
            return saved
        if not self._abandoned.is_set():
            self._tell(saved)
        raise failed

    def abandon(self) -> None:
        """Let `final` end as soon as it can, with nothing saved for good."""
        self._abandoned.set()

    def _go_on(self, _: int = 0) -> None:
        if self._abandoned.is_set():
            raise CaptureFailed("it was aborted before all of it was saved")

    def again(self) -> None:
        """Tell of the snapshots once more, after saving them anew: they are not in the store any more."""
        self._latest = dict.fromkeys(self._latest, b"")
        self._schedule.changed(self._clock.monotonic())

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.is_set():
            watched = self._identities()
            present = [folder for path, folder in self._folders.items() if watched[path] is not None]
            if not present:
                self._stopped.wait(LOOK / 1000)
                continue
            self._schedule.changed(self._clock.monotonic())  # what was written before the watch is up, nobody tells of
            try:
                self._watch(present, watched)
            except FileNotFoundError:
                continue  # a folder went away before it could be watched: look again
            except (OSError, RuntimeError) as error:  # no more watches to be had (inotify's limits)
                _log.warning("cannot be told of changes (%s): looking every %s s instead", error, self._rescan)
                self._poll()

    def _poll(self) -> None:
        """Look without being told, until stopped."""
        while not self._stopped.wait(self._rescan):
            if self._is_due(self._clock.monotonic(), always=True):
                self._take()

    def _watch(self, folders: Sequence[Path], watched: Mapping[str, object]) -> None:
        """Follow changes until told to stop, or until a folder is no longer the one that is watched."""
        gone = {(Change.deleted, os.fspath(folder)) for folder in folders}
        for changes in watch(
            *folders,
            watch_filter=None,
            debounce=STEP,
            step=STEP,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            stop_event=self._stopped,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            now = self._clock.monotonic()
            if changes:
                self._schedule.changed(now)
            if self._is_due(now):
                self._schedule.taken(now)
                began = time.thread_time()
                self._take()
                self._schedule.ended(self._clock.monotonic(), time.thread_time() - began)
            # A folder made anew may have got the number of the one that was removed.
            if not gone.isdisjoint(changes) or self._identities() != watched:
                return

    def _is_due(self, now: float, *, always: bool = False) -> bool:
        return always or self._schedule.due(now) if self._again is None else now >= self._again

    def _refused(self, error: Exception | None) -> None:
        """Pause, or go on after a pause."""
        if error is None and self._again is None:
            return
        if error is None:
            self._patience.accepted()
            self._again = None
        else:
            self._again = self._clock.monotonic() + self._patience.refused()
        self._on_problem(error)

    def _take(self) -> None:
        with self._saving:
            if self._stopped.is_set():
                return
            taken: dict[str, SavedSnapshot] = {}
            problem: Exception | None = None
            for path, folder in self._folders.items():
                if path not in self._latest and _is_empty(folder):
                    continue  # the job has not begun to write
                try:
                    snapshot = self._save(path, live=True)
                except CaptureFailed:
                    continue  # the job removed it and may make it again
                except Exception as error:  # noqa: BLE001 - whatever a catalog raises, it is tried again
                    trace = None if isinstance(error, SnapshotError) else error
                    _log.warning("live snapshot of %s failed: %s", folder, error, exc_info=trace)
                    problem = error
                    continue
                taken[path] = snapshot
            self._refused(problem)
            self._tell(taken)

    def _tell(self, taken: Snapshots) -> None:
        """Report the snapshots that differ from those before."""
        changed = {path: found for path, found in taken.items() if self._latest.get(path) != found.manifest_id}
        if not changed:
            return
        self._latest.update({path: found.manifest_id for path, found in changed.items()})
        try:
            self._on_snapshot(changed)
        except Exception:  # noqa: BLE001 - the next snapshot, or the last one, has this one's files too
            _log.warning("live snapshots of %s could not be reported", list(changed), exc_info=True)

    def _save(self, path: str, *, live: bool) -> SavedSnapshot:
        folder = self._folders[path]
        real = os.path.realpath(folder)
        if not Path(real).is_relative_to(os.path.realpath(self._root)):
            raise CaptureFailed(
                f"{path} was not saved: the job put a link there that leads out of its folder, to {real}. "
                "Write into the folder itself, or copy the results there"
            )
        obstacle = _in_the_way(self._root, path)
        if obstacle is not None:
            raise CaptureFailed(
                f"{path} was not saved: the job put {obstacle}. "
                "Let it write into that folder, or name the folder around it as the artifact"
            )
        if live:
            return save(folder, self._store, cache=self._caches[path], live=True)
        self._go_on()
        _see_readable(self._root, path)
        return save(folder, self._store, cache=self._caches[path], watch=self._go_on)

    def _identities(self) -> dict[str, tuple[int, int] | None]:
        """Device and inode of each folder: a folder made anew is not the one that is watched."""
        found: dict[str, tuple[int, int] | None] = {}
        for path, folder in self._folders.items():
            try:
                status = os.stat(folder)
            except OSError:
                found[path] = None
            else:
                found[path] = status.st_dev, status.st_ino
        return found


def _in_the_way(root: Path, path: str) -> str | None:
    """What stands where the folder `path` was, or on the way there, and is none; None where nothing does."""
    for place in (*reversed(Path(path).parents), Path(path)):
        at = root / place
        if os.path.lexists(at) and not os.path.isdir(at):
            kind = "a link to no folder" if os.path.islink(at) else "a file"
            return f"{kind} in the place of the folder {place}"
    return None


def _see_readable(root: Path, path: str) -> None:
    """Raises CaptureFailed: as nothing runs any more that could change it, no waiting helps."""
    try:
        os.close(os.open(root / path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError as error:
        closed = next((place for place in reversed(Path(path).parents) if not os.access(root / place, os.X_OK)), path)
        raise CaptureFailed(
            f"{path} was not saved: the job left the folder {closed} so that its runner may not read it "
            f"({error.strerror}). Let the job end with: chmod -R a+rX {closed}"
        ) from error


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as found:
            return next(found, None) is None
    except OSError:
        return False  # `save` tells what is wrong with it
