"""What `lstat` says about the files that go with a run. An unchanged tree of 10,000 files costs some 15 ms."""

from __future__ import annotations

import os
import stat
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from dstack.client.listing import Listing

_FACTS = struct.Struct("=IQqqQ").pack
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Tree:
    """The files of one look. Paths are relative to the root; all lists are sorted once the look is over."""

    def __init__(self) -> None:
        self.looked_at = time.time_ns()
        self.paths: list[str] = []
        """Files, links and empty folders."""
        self.sizes: list[int] = []
        self.links: list[str] = []
        self.folders: list[str] = [""]
        """Those that hold any of the paths."""
        self.special: dict[str, str] = {}
        """Paths that are no files → what they are."""
        self.unreadable: dict[str, str] = {}
        """Paths that cannot be looked at → why."""
        self.size = 0
        self.newest = 0
        """Nanoseconds UTC of the last change of any of them."""
        self.digest = ""
        """The same if and only if nothing changed that a snapshot shows."""
        self.surroundings = ""
        """The same if and only if nothing came or went in any of the folders, also of what is not shipped."""


def look(listing: Listing) -> Tree:
    """The tree as it is now. Raises RepositoryError."""
    looker = _Looker(listing.root, listing.empty)
    try:
        looker.look(listing.paths())
        while looker.unlisted:
            folders, looker.unlisted = looker.unlisted, []
            looker.look(listing.below(folders))
    finally:
        os.close(looker.fd)
    return looker.finish()


def look_again(root: str, tree: Tree) -> Tree:
    """The paths of `tree` as they are now."""
    looker = _Looker(root, frozenset(tree.paths))
    try:
        looker.look(tree.paths)
    finally:
        os.close(looker.fd)
    return looker.finish()


class _Looker:
    """`unlisted` are folders among the paths, of which what is in them is not known yet."""

    def __init__(self, root: str, empty: AbstractSet[str]) -> None:
        self.fd = os.open(root, _OPEN_FOLDER)
        self.unlisted: list[str] = []
        self._empty = empty
        self._tree = Tree()
        self._found: list[tuple[str, os.stat_result]] = []
        self._folders: dict[str, os.stat_result | None] = {"": os.fstat(self.fd)}
        """None for what is no folder: a link, a file, or gone. What git has below it is not there."""

    def look(self, paths: Iterable[str]) -> None:
        folders, lstat, fd, found = self._folders, os.lstat, self.fd, self._found
        for path in paths:
            parent = path.rpartition("/")[0]
            try:
                if (folders[parent] if parent in folders else self._folder(parent)) is None:
                    continue
                status = lstat(path, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                continue  # tracked and deleted
            except OSError as error:
                self._tree.unreadable[path] = error.strerror or str(error)
                continue
            if stat.S_ISDIR(status.st_mode) and path not in self._empty:
                self.unlisted.append(path)
            else:
                found.append((path, status))

    def finish(self) -> Tree:
        import hashlib

        tree = self._tree
        facts: list[bytes] = []
        for path, status in sorted(self._found):
            mode, size = status.st_mode, status.st_size
            mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
            if stat.S_ISDIR(mode):
                size = mtime = ctime = 0
            elif stat.S_ISLNK(mode):
                tree.links.append(path)
            elif not stat.S_ISREG(mode):
                tree.special[path] = "no file"
                continue
            tree.newest = max(tree.newest, mtime, ctime)
            tree.size += size
            tree.paths.append(path)
            tree.sizes.append(size)
            facts.append(_FACTS(mode, size, mtime, ctime, status.st_ino))
        folders = sorted((path, status) for path, status in self._folders.items() if status is not None)
        tree.folders = [path for path, _ in folders]
        names = "\0".join([*tree.paths, "", *tree.folders]).encode("utf-8", "surrogateescape")
        modes = "".join([f"{status.st_mode} " for _, status in folders]).encode()
        digest = hashlib.blake2b(b"".join([names, *facts, modes]), digest_size=20)
        tree.digest = digest.hexdigest()
        digest.update("".join([f"{status.st_mtime_ns} " for _, status in folders]).encode())
        tree.surroundings = digest.hexdigest()
        return tree

    def _folder(self, path: str) -> os.stat_result | None:
        parent = path.rpartition("/")[0]
        above = self._folders[parent] if parent in self._folders else self._folder(parent)
        status = None
        if above is not None:
            try:
                found = os.lstat(path, dir_fd=self.fd)
                status = found if stat.S_ISDIR(found.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone, with all below it
        self._folders[path] = status
        return status


def largest(tree: Tree, count: int) -> Sequence[tuple[int, str]]:
    """(bytes, path) of the largest files."""
    return sorted(zip(tree.sizes, tree.paths, strict=True), reverse=True)[:count]
