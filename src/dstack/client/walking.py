"""Walking folders for the files that are code, where git does not name them."""

from __future__ import annotations

import os
import stat

from dstack.client.ignore import NAME, IgnoreRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SKIPPED = (".venv", "__pycache__")
"""Virtual environments and caches: a job cannot use them. Left out even where no .gitignore names them."""
REPOSITORY = ".git"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Walk:
    """What stands below folders of `root`, without what `.dstackignore` files name. Paths are relative to `root`."""

    def __init__(self, root: str, ignored: IgnoreRules) -> None:
        """`ignored` has the rules of the root's file; files further down are added as the walk comes upon them."""
        self._root = root
        self._ignored = ignored
        self.paths: list[str] = []
        """Files, links, empty folders, and repositories within this one, by their folder."""
        self.empty: set[str] = set()
        """Of the paths, the empty folders."""
        self.special: dict[str, str] = {}
        """Path → what it is."""
        self.unreadable: dict[str, str] = {}
        """Folder → why."""

    def all_below(self, folder: str) -> None:
        """Take everything except SKIPPED; of a repository within this one its folder: its git says what is in it."""
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            entries = self._entries(at)
            if entries is None:
                continue
            if at != folder and REPOSITORY in entries:
                self.paths.append(at)
                continue
            if not entries and at:
                self._take_empty(at)
            for name, kind in entries.items():
                path = f"{at}/{name}" if at else name
                is_folder = kind == stat.S_IFDIR
                if name == REPOSITORY or name in SKIPPED or self._ignored.ignores(path, folder=is_folder):
                    continue
                if is_folder:
                    waiting.append(path)
                else:
                    self._take(path, kind)

    def chosen(self, folders: Iterable[str], chosen: IgnoreRules) -> None:
        """Take what the patterns of `chosen` match below `folders`, wherever it lies."""
        waiting = list(folders)
        while waiting:
            at = waiting.pop()
            entries = self._entries(at)
            if entries is None:
                continue
            if not entries and at and chosen.ignores(at, folder=True):
                self._take_empty(at)
            for name, kind in entries.items():
                path = f"{at}/{name}" if at else name
                is_folder = kind == stat.S_IFDIR
                if name == REPOSITORY or self._ignored.ignores(path, folder=is_folder):
                    continue
                if is_folder:
                    waiting.append(path)
                elif chosen.ignores(path):
                    self._take(path, kind)

    def special_in(self, folders: Iterable[str]) -> None:
        """Note what is no file, folder or link directly in `folders`."""
        for at in folders:
            for name, kind in (self._entries(at) or {}).items():
                path = f"{at}/{name}" if at else name
                if kind in _KINDS and not self._ignored.ignores(path):
                    self.special[path] = _KINDS[kind]

    def _take(self, path: str, kind: int) -> None:
        if kind in _KINDS:
            self.special[path] = _KINDS[kind]
        else:
            self.paths.append(path)

    def _take_empty(self, folder: str) -> None:
        self.paths.append(folder)
        self.empty.add(folder)

    def _entries(self, folder: str) -> dict[str, int] | None:
        """Names in a folder and what they are (stat.S_IFMT); None where it cannot be listed, or is gone."""
        found: dict[str, int] = {}
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                for entry in entries:
                    found[entry.name] = _kind(entry)
        except (FileNotFoundError, NotADirectoryError):
            return None  # removed meanwhile: as if it had been removed before
        except OSError as error:
            self.unreadable[folder] = error.strerror or str(error)
            return None
        if NAME in found and folder:
            self._ignored.add(folder, read_rules(f"{self._root}/{folder}"))
        return found


def read_rules(folder: str) -> str:
    """The text of the `.dstackignore` in `folder`, empty where there is none. Raises OSError."""
    try:
        with open(f"{folder}/{NAME}", encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return ""


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return stat.S_IFREG  # removed meanwhile, which whoever looks at it finds out
