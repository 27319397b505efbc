"""How large inputs, and large code, reach a working copy: from the cache of this machine where that spares copying.

    reflink   the files share the blocks of the cache's until either is written to (btrfs, xfs)
    overlay   the working copy is laid over the cache's files (as root on Linux; `runner.overlay`)
    copy      the bytes are copied out of the cache: where the store is farther away than this machine's disk
    direct    the files come out of the store, as small ones always do

Which of them the file systems allow is found out by trying, once. What fails is told in the runner's log, and the files
are put there directly: an input never fails for the sake of a cache.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

import msgspec

from dstack.domain import faults
from dstack.runner import cloning, overlay
from dstack.runner.input_cache import TREE, Disk, InputCache, Limits, Wanted, disk_of
from dstack.runner.settings import Settings
from dstack.runner.threads import stoppable, whole
from dstack.snapshots.errors import RestoreFailed, SnapshotError
from dstack.snapshots.restore import Restored

if TYPE_CHECKING:
    from dstack.runner.workshop import Workshop

faults.declare("input-layers:before", "input-layers:after")

_log = logging.getLogger(__name__)
Way = Literal["reflink", "overlay", "copy", "direct"]
MANY_FILES: Final = 2000
"""To share the blocks of so many files takes a tenth of a second and more, an overlay a millisecond."""
_BELOW: Final = f"{overlay.LAYERS}/below"


@dataclass(frozen=True, slots=True)
class Ways:
    """What stands against sharing blocks, and against overlays, on this machine; "" where nothing does."""

    reflink: str
    overlay: str
    far: bool
    """Whether the store is on another machine."""

    def best(self, files: int, told: str = "") -> Way:
        """For so many files; `told` is the way that a person has set."""
        if told:
            possible = {"reflink": not self.reflink, "overlay": not self.overlay, "copy": True}
            return told if possible.get(told) else "direct"  # pyright: ignore[reportReturnType] - one of the three
        if not self.reflink and (files < MANY_FILES or self.overlay):
            return "reflink"
        if not self.overlay:
            return "overlay"
        return "copy" if self.far else "direct"


def look(settings: Settings) -> Ways:
    """Try both. The folders of the runner are made when missing. Raises OSError."""
    cache, attempts = settings.folder / "cache", settings.folder / "attempts"
    for folder in (cache, attempts):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Ways(cloning.obstacle(cache, attempts), overlay.obstacle(cache, attempts), bool(settings.server))


class Inputs:
    """The cache of one agent, and how its entries get into working copies."""

    def __init__(self, shop: Workshop, disk: Callable[[Path], Disk] = disk_of) -> None:
        settings = shop.settings
        limits = Limits(settings.inputs_size, settings.inputs_spare)
        self.cache = InputCache(settings.folder / "cache" / "inputs", shop.store, limits, shop.clock, disk)
        self._store = shop.store
        self._settings = settings
        self._ways: Ways | None = None

    async def way(self, files: int) -> Way:
        """How `files` files should reach a job."""
        if self._ways is None:
            self._ways = await whole(look, self._settings)
            _log.info("large inputs reach jobs by %s (%s)", self._ways.best(1, self._settings.inputs_way), self._ways)
        return self._ways.best(files, self._settings.inputs_way)

    async def clone(self, attempt_id: UUID, manifest_id: bytes, size: Restored, target: Path, way: Way) -> bool:
        """Put a snapshot into `target`; False where the cache could not be used, and whoever wants it restores it.

        Raises RestoreFailed, DamagedStore, and what the store's catalog raises.
        """
        wanted = Wanted(manifest_id, ".")
        tree = await self.cache.obtain(attempt_id, wanted, size)
        if tree is None:
            return False
        fill = cloning.share_blocks if way == "reflink" else cloning.copy_bytes
        try:
            files = await stoppable(lambda stopped: cloning.put_tree(tree, target, fill, stopped))
            if files != size.files:
                raise OSError(f"{tree} holds {files} files in place of {size.files}: remove that entry")
        except OSError as error:
            _log.warning("%s cannot be had from the cache by %s: %s", manifest_id.hex(), way, error)
            return False
        finally:
            self.cache.release(attempt_id)
        return True

    async def below(self, attempt_id: UUID, folder: Path, wanted: Wanted, size: Restored) -> Path | None:
        """Where the files lie over which the working copy of the attempt can be laid; None: restore them instead.

        `folder/layers/upper` loses what they replace. Raises as `clone`.
        """
        tree = await self.cache.obtain(attempt_id, wanted, size)
        if tree is not None:
            await whole(_make_way, folder / overlay.UPPER / wanted.place, tree / wanted.place)
        return tree

    async def lay_over(self, folder: Path, below: Sequence[Wanted]) -> None:
        """Lay the attempt's working copy over what `below` gave, the lowest first. Raises OSError."""
        await whole(_write_below, folder, below)
        await whole(overlay.mount, [self.cache.root / one.key / TREE for one in reversed(below)], folder)

    def hold(self, attempt_id: UUID, folder: Path) -> None:
        """Keep what the working copy of an attempt lies over that an earlier agent began."""
        self.cache.hold(attempt_id, _read_below(folder))

    async def lay_over_again(self, attempt_id: UUID, folder: Path, pid: int) -> str:
        """The overlay of an attempt that an earlier agent began, mounted where a boot took it away; or where process
        `pid` has it (0: none works there any more), brought here.

        Returns what is wrong with the working copy, in words. Raises OSError where `work` is not the working copy
        now, so that nothing may be saved from it, and what the store's catalog raises.
        """
        if overlay.is_mounted(folder):
            return ""
        if pid and overlay.has_upper(folder):
            # Where that fails nothing is mounted here: what two mounts with one upper layer show is not defined.
            await whole(overlay.reach, pid, folder)
            return ""
        try:
            await self._put_below(attempt_id, folder)
        except (SnapshotError, OSError) as error:
            _log.warning("attempt %s: its inputs cannot be put below its working copy: %s", attempt_id, error)
            await whole(overlay.uncover, folder)
            return f"its inputs are gone since a restart of this machine, only what it wrote is left: {error}"
        return ""

    async def _put_below(self, attempt_id: UUID, folder: Path) -> None:
        if not overlay.has_upper(folder):
            raise RestoreFailed("so the runner found that ended in the middle of this")
        below = _read_below(folder)
        if not below:
            raise RestoreFailed("which they were is not on the disk any more")
        for one in below:
            size = await whole(self._size, one.manifest_id)
            if await self.cache.obtain(attempt_id, one, size) is None:
                raise RestoreFailed("they do not fit into the cache any more")
        await self.lay_over(folder, below)

    def _size(self, manifest_id: bytes) -> Restored:
        root = self._store.root(manifest_id)
        return Restored(root.files, root.size)


def _write_below(folder: Path, below: Sequence[Wanted]) -> None:
    """On the disk before its name is: a power cut would leave an empty file, and the job without its inputs."""
    part = folder / f"{_BELOW}.part"
    with open(part, "wb") as file:
        file.write(msgspec.msgpack.encode(below))
        file.flush()
        os.fsync(file.fileno())
    faults.rename(part, folder / _BELOW, "input-layers")


def _read_below(folder: Path) -> list[Wanted]:
    """Empty where that is not known (any more)."""
    try:
        return msgspec.msgpack.decode((folder / _BELOW).read_bytes(), type=list[Wanted])
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("what %s lies over cannot be read: %s", folder, error)
        return []


def _make_way(above: Path, below: Path) -> None:
    """Take out of the upper layer what the lower one replaces, as `restore` would. Raises RestoreFailed."""
    if not os.path.lexists(above):
        return
    if not above.is_dir() or above.is_symlink():
        raise RestoreFailed(f"{above.name} is in the way: the input is a folder; move it away and try again")
    with os.scandir(above) as found:
        entries = list(found)
    for entry in entries:
        try:
            status = os.lstat(below / entry.name)
        except FileNotFoundError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_folder != entry.is_dir(follow_symlinks=False):
            raise RestoreFailed(f"{entry.name} is in the way: the input has something else there; move it away")
        if is_folder:
            _make_way(above / entry.name, below / entry.name)
            os.chmod(entry.path, stat.S_IMODE(status.st_mode))
            os.utime(entry.path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        else:
            os.unlink(entry.path)
