"""What stands under a folder, one folder at a time, children first. Standard library only: the CLI's hot path.

Every folder is opened relative to the one above it and never through a symbolic link, so a job that swaps a folder
for a link while it is being saved leads nowhere.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Optional

Selection = dict[bytes, Optional["Selection"]]
"""Names to look at; None = the file of that name."""

Known = Mapping[bytes, os.stat_result]

MAX_DEPTH: Final = 500
"""Folders within folders; each costs an open file while it is walked."""

FOLDERS: Final = 1_000_000
FOLDERS_PER_FILE: Final = 16

PART_DIVISOR: Final = 256
PART_FILES: Final = 4096

_NO_NAME: Final = (b"", b".", b"..")
_STAT: Final = struct.Struct(">IQQQqq")
ROW_LENGTH: Final = _STAT.size
_FOLDER: Final = struct.Struct(">Iq32s32s")
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Subtree(NamedTuple):
    """A folder that was saved: its object, its content, and what it holds with all that is below."""

    tree_id: bytes
    content_id: bytes
    files: int
    size: int


class Stat(NamedTuple):
    """What must stay the same for a file to count as unchanged; the fields of `os.stat_result` of that name."""

    st_mode: int
    st_dev: int
    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


class Listing:
    """One folder as it was found. `fd` is open only until the walk goes on."""

    def __init__(
        self, path: bytes, fd: int, parent: Listing | None, selection: Selection | None, known: Known | None
    ) -> None:
        self.path = path
        self.fd = fd
        self.parent = parent
        self.selection = selection
        self.known = known
        found = os.fstat(fd)
        self.mode = stat.S_IMODE(found.st_mode)
        # The time of a folder of which only chosen files are saved says nothing about them: it is left out.
        self.mtime = found.st_mtime_ns if selection is None else 0
        self.parts: list[bytes] = []
        """Names and stat rows of everything but folders, sorted by name, in runs: `parse_rows` reads them. A run ends
        at a name that says so: a file that comes or goes changes one run of a folder of a million."""
        self.linked: list[tuple[bytes, int, int]] = []
        """Name, device and inode of files that have other names."""
        self.folders: dict[bytes, Listing] = {}
        """Sub-folders by name, in order; complete once the walk has come to this folder."""
        self.subtree: Subtree | None = None
        """What this folder was saved as, once it was."""
        self.warnings: list[str] = []

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    def saved_folders(self) -> Iterator[tuple[bytes, Listing, Subtree]]:
        """The sub-folders, in order, each with what it was saved as."""
        for name, folder in self.folders.items():
            if folder.subtree is None:
                raise AssertionError(f"{shown(folder.path)} comes before its parent")
            yield name, folder, folder.subtree

    def finish(self, subtree: Subtree) -> None:
        """Note what this folder was saved as, and let go of what is needed no longer."""
        self.subtree = subtree
        self.parts = []
        self.linked = []
        self.folders = {}

    def child_path(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


def select(paths: Iterable[bytes]) -> Selection:
    """A selection of exactly these relative paths. Raises ValueError for one that leads out of the folder."""
    selection: Selection = {}
    levels: dict[bytes, Selection] = {b"": selection}
    for path in paths:
        parent, slash, name = path.rpartition(b"/")
        if name in _NO_NAME or b"\0" in name or (slash and not parent):
            raise ValueError(f"{os.fsdecode(path)!r} is not a relative path of plain names")
        level = levels.get(parent)
        if level is None:
            level = levels[parent] = _level(selection, path, parent)
        level.setdefault(name, None)
    return selection


def _level(selection: Selection, path: bytes, folder: bytes) -> Selection:
    """The selection within `folder`, made if need be."""
    for name in folder.split(b"/"):
        if name in _NO_NAME or b"\0" in name:
            raise ValueError(f"{os.fsdecode(path)!r} is not a relative path of plain names")
        below = selection.get(name)
        if below is None:
            below = selection[name] = {}
        selection = below
    return selection


def most_folders(files: int) -> int:
    """How many folders a snapshot of so many files may have: what one forged object can ask for has an end."""
    return FOLDERS + FOLDERS_PER_FILE * files


def walk(root: Path, selection: Selection | None = None, known: Known | None = None) -> Iterator[Listing]:
    """Every folder below `root` and `root` itself, children first, in the order of names.

    `known` tells how selected files were found a moment ago, by path: they are not looked at again.
    Raises OSError where `root` cannot be opened; what cannot be read further down becomes a warning.
    """
    first = Listing(b"", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), None, selection, known)
    stack = [(first, iter(_scan(first)))]
    try:
        while stack:
            listing, names = stack[-1]
            name = next(names, None)
            if name is None:
                yield listing
                stack.pop()
                os.close(listing.fd)
            elif (child := _enter(listing, name, len(stack))) is not None:
                listing.folders[name] = child
                stack.append((child, iter(_scan(child))))
    finally:
        for listing, _ in stack:
            os.close(listing.fd)


def stat_row(found: os.stat_result | Stat) -> bytes:
    """A file's Stat, packed."""
    return _STAT.pack(found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def unpack_row(row: bytes) -> Stat:
    return Stat._make(_STAT.unpack(row))


def join_rows(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Names and stat rows in one string: equal if and only if nothing changed."""
    return b"".join([b"%b\0%b" % row for row in rows])


def parse_rows(part: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and stat rows that were joined."""
    at = 0
    while at < len(part):
        end = part.index(b"\0", at)
        yield part[at:end], part[end + 1 : end + 1 + ROW_LENGTH]
        at = end + 1 + ROW_LENGTH


def newest_change(row: bytes) -> int:
    """Nanoseconds UTC of the last change that a stat row tells of."""
    fields = _STAT.unpack(row)
    return max(fields[4], fields[5])


def folders_signature(folders: Iterable[tuple[bytes, Listing, Subtree]]) -> bytes:
    """What must stay the same of sub-folders, of which each stands for all below it."""
    return b"".join(
        b"%b\0%b" % (name, _FOLDER.pack(folder.mode, folder.mtime, subtree.tree_id, subtree.content_id))
        for name, folder, subtree in folders
    )


def _enter(parent: Listing, name: bytes, depth: int) -> Listing | None:
    path = parent.child_path(name)
    if depth > MAX_DEPTH:
        parent.warnings.append(f"{shown(path)}: not saved, more than {MAX_DEPTH} folders within each other")
        return None
    try:
        fd = os.open(name, _OPEN_FOLDER, dir_fd=parent.fd)
    except OSError as error:
        if parent.selection is not None or not isinstance(error, FileNotFoundError | NotADirectoryError):
            parent.warnings.append(f"{shown(path)}: not saved, {error.strerror}")
        return None
    below = None if parent.selection is None else parent.selection.get(name) or {}
    return Listing(path, fd, parent, below, parent.known)


def _scan(listing: Listing) -> list[bytes]:
    """Fill the parts; the names of sub-folders, sorted."""
    folders: list[bytes] = []
    rows: list[bytes] = []
    found = _everything(listing, folders) if listing.selection is None else _selected(listing, listing.selection)
    for name, entry in found:
        mode = entry.st_mode
        if stat.S_ISDIR(mode):
            folders.append(name)
            continue
        rows.append(
            b"%b\0%b"
            % (
                name,
                _STAT.pack(mode, entry.st_dev, entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns),
            )
        )
        if entry.st_nlink > 1 and stat.S_ISREG(mode):
            listing.linked.append((name, entry.st_dev, entry.st_ino))
        if zlib.crc32(name) % PART_DIVISOR == 0 or len(rows) >= PART_FILES:
            listing.parts.append(b"".join(rows))
            rows.clear()
    if rows:
        listing.parts.append(b"".join(rows))
    folders.sort()
    return folders


def _everything(listing: Listing, folders: list[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """All but sub-folders, in the order of names; the names of those go to `folders`."""
    names: list[bytes] = []
    encode = os.fsencode
    try:
        with os.scandir(listing.fd) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else names).append(encode(entry.name))
    except OSError as error:
        listing.warnings.append(f"{shown(listing.path)}: not saved in full, {error.strerror}")
    names.sort(reverse=True)
    look, fd = os.stat, listing.fd
    while names:  # let go of one by one: a folder may have a million
        name = names.pop()
        try:
            found = look(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed since it was listed: as if it had been removed before
        except OSError as error:
            listing.warnings.append(f"{shown(listing.child_path(name))}: not saved, {error.strerror}")
            continue
        yield name, found


def _selected(listing: Listing, selection: Selection) -> Iterator[tuple[bytes, os.stat_result]]:
    known = listing.known
    for name in sorted(selection):
        below = selection[name]
        if below is None and known is not None and (found := known.get(listing.child_path(name))) is not None:
            yield name, found
            continue
        try:
            found = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
        except OSError as error:
            listing.warnings.append(f"{shown(listing.child_path(name))}: not saved, {error.strerror}")
            continue
        if below is not None and not stat.S_ISDIR(found.st_mode):
            listing.warnings.append(f"{shown(listing.child_path(name))}: not saved, it is no folder")
            continue
        yield name, found


def shown(path: bytes) -> str:
    """A path for a message: odd bytes, and what a terminal would obey, as escapes."""
    text = path.decode("utf-8", "backslashreplace") or "."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
