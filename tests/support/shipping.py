"""Shipping code into a store in memory, and unpacking it as a runner does."""

from __future__ import annotations

import codecs
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dstack.client import difference, missing, notes, walking
from dstack.client.cache import CodeCache, Shipped
from dstack.client.code import ship_code
from dstack.client.listing import Listing
from dstack.client.patterns import code_patterns
from dstack.client.repository import identify, read_files
from dstack.client.sent import CodeRef
from dstack.snapshots.capture import save
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.statcache import FileCache
from tests.support.stores import RecordingStore

NOBODY = 65534
LOADED = (difference, missing, notes, walking, select, subprocess)
"""What the code loads when it is needed: see `as_nobody`."""


class Desk:
    """One person's caches and one store. `before_save` and `after_save` are called around the reading of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = RecordingStore()
        self.saves: list[list[str]] = []
        self.asked: list[tuple[int, int, list[str]]] = []
        self.agrees = True
        self.before_save: Callable[[], object] = lambda: None
        self.after_save: Callable[[], object] = lambda: None

    def ship(self, root: Path, workflow: str = "show") -> Shipped:
        """As `dstack run` does it."""
        listing = Listing(os.path.realpath(root))
        cache = CodeCache(str(self.folder / "stat-cache"), listing.root, "")
        listing.include, listing.exclude = code_patterns(read_files(listing.root), workflow, cache)
        return ship_code(listing, cache, identify(listing.root).get("commit"), self._save, self._confirm)

    def unpack(self, code: CodeRef, name: str) -> Path:
        """A working copy."""
        target = self.folder / name
        Materialiser(self.store).unpack(bytes.fromhex(code["manifest_id"]), target)
        return target

    def _save(self, root: str, files: Mapping[str, os.stat_result], cache: str) -> tuple[CodeRef, Sequence[str]]:
        self.saves.append(list(files))
        self.before_save()
        found = {os.fsencode(path): status for path, status in files.items()}
        saved = save(Path(root), self.store, paths=found, known=found, cache=FileCache.load(Path(cache)))
        self.after_save()
        code: CodeRef = {
            "manifest_id": saved.manifest_id.hex(),
            "content_id": saved.content_id.hex(),
            "files": saved.files,
            "size": saved.size,
        }
        return code, saved.warnings

    def _confirm(self, files: int, size: int, largest: Sequence[tuple[int, str]]) -> bool:
        self.asked.append((files, size, [path for _, path in largest]))
        return self.agrees


@contextmanager
def as_nobody(*owned: Path) -> Iterator[None]:
    """Without root's right to read everything; what is in `owned` then belongs to the one who acts."""
    if os.geteuid() != 0:
        yield
        return
    for folder in owned:
        for parent, folders, names in os.walk(folder):
            for name in (*folders, *names):
                os.lchown(os.path.join(parent, name), NOBODY, NOBODY)
        os.chown(folder, NOBODY, NOBODY)
    for name in ("ascii", "unicode_escape", "idna"):
        codecs.lookup(name)  # Python's own files may lie where only root may read
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
