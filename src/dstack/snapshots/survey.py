"""Going through the objects of a store without stopping at what is damaged, and telling which files that reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

from dstack.domain.parts import parts
from dstack.snapshots import manifests
from dstack.snapshots.checking import MAGIC_LENGTH, Damage, Names, is_root, names_in
from dstack.snapshots.errors import BadManifest, CorruptChunk, DamagedStore, MissingChunk
from dstack.snapshots.interfaces import Catalog
from dstack.snapshots.manifests import AnyEntry, ChunkRef, DirectoryEntry, FileEntry
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.store import Found, SnapshotStore

T = TypeVar("T")
TOGETHER: Final = 64
"""Objects that are asked for at once; each has at most some hundred kilobytes, as a rule."""
ASKED: Final = 2048
"""Chunks per question to the catalog."""
MOST_ODD: Final = 10_000


class Survey:
    """`follow` reads objects and what they name, from those that `spread` has; `link` then says who names whom."""

    def __init__(self, store: SnapshotStore, catalog: Catalog, spread: Spread, *, note_chunks: bool = False) -> None:
        """With `note_chunks`, `spread` gets all chunks of files, to be read."""
        self._store = store
        self._catalog = catalog
        self._spread = spread
        self._note_chunks = note_chunks
        self._waiting: list[tuple[bytes, ChunkRef]] = []
        self._odd: list[tuple[bytes, ChunkRef, int]] = []

    def follow(self) -> Iterator[Damage | None]:
        """Read every object that is named, once; what is wrong with any, None in between to show that it goes on."""
        while batch := self._spread.unread(TOGETHER):
            for object_id, data in self._store.try_chunks(batch):
                yield from self._take(object_id, data, batch[object_id])
            yield None
        yield from self._ask()

    def odd(self) -> Iterator[Damage]:
        """Objects that give a chunk another length than it has, once it is known whether it is the chunk's fault."""
        bad = self._spread.bad_among([chunk.chunk_id for _, chunk, _ in self._odd])
        for object_id, chunk, length in self._odd:
            if chunk.chunk_id not in bad:
                what = f"it gives chunk {chunk.chunk_id.hex()} {chunk.length} bytes, and there are {length}"
                yield from self._found(Damage("object", object_id, None, what))

    def link(self, *, missing: bool = False, again: bool = True) -> Iterator[None]:
        """Tell `spread` what each object names of objects, and of chunks that are bad; without `again`, of those only
        that were not read yet.

        With `missing`, what is named and in no pack becomes bad: for objects that `follow` did not come to.
        """
        if again:
            self._spread.read_again()
        for object_id, names in self._again():
            if names is not None:
                objects = (*names.objects, *names.pages)
                self._spread.link(object_id, objects)
                for part in parts(chain(objects, (chunk.chunk_id for chunk in names.chunks())), ASKED):
                    if missing:
                        self._mark_missing(part)
                    self._spread.link(object_id, self._spread.bad_among(part))
            yield None

    def _again(self) -> Iterator[tuple[bytes, Names | None]]:
        while batch := self._spread.unread(TOGETHER):
            for object_id, data in self._store.try_chunks(batch):
                self._spread.mark_read(object_id)
                yield object_id, _names(object_id, data)

    def _mark_missing(self, chunk_ids: Sequence[bytes]) -> None:
        located = self._catalog.locate(chunk_ids)
        for chunk_id in chunk_ids:
            if chunk_id not in located:
                self._spread.mark_bad(Bad(chunk_id, None, "no pack in the store holds it"))

    def _take(self, object_id: bytes, data: Found, kind: bytes, *, is_page: bool = False) -> Iterator[Damage]:
        if isinstance(data, DamagedStore):
            self._spread.mark_read(object_id)
            yield from self._found(told_of(object_id, data))
            return
        try:
            names = names_in(object_id, data)
            if not bytes(data[:MAGIC_LENGTH]).startswith(kind):
                raise BadManifest(object_id, f"it begins with {bytes(data[:MAGIC_LENGTH])!r}, not with {kind!r}")
            if is_page and names.pages:
                raise BadManifest(object_id, "it is a page and has pages")
        except BadManifest as error:
            self._spread.mark_read(object_id)
            yield from self._found(Damage("object", object_id, None, error.detail))
            return
        self._spread.mark_read(object_id, *names.borders)
        self._spread.add_objects(names.objects[:1], manifests.DIRECTORY)
        self._spread.add_objects(names.objects[1:], manifests.LINKS if is_root(data) else manifests.DIRECTORY)
        if names.pages:
            yield from self._take_pages(object_id, names.pages)
        for chunk in names.chunks():
            self._waiting.append((object_id, chunk))
            if len(self._waiting) >= ASKED:
                yield from self._ask()

    def _take_pages(self, object_id: bytes, pages: Sequence[bytes]) -> Iterator[Damage]:
        known = self._spread.are_read(pages)
        for page, data in self._store.try_chunks(page for page in pages if page not in known):
            yield from self._take(page, data, manifests.DIRECTORY, is_page=True)
        before = b""
        for page in pages:
            first, last = self._spread.borders(page)
            if first and first <= before:
                yield from self._found(Damage("object", object_id, None, "its pages are not in order"))
                return
            before = last or before

    def _ask(self) -> Iterator[Damage]:
        """See that the catalog knows the chunks that files are said to have, and their lengths."""
        waiting, self._waiting = self._waiting, []
        located = self._catalog.locate(list({chunk.chunk_id for _, chunk in waiting}))
        for object_id, chunk in waiting:
            place = located.get(chunk.chunk_id)
            if place is None:
                yield from self._found(told_of(chunk.chunk_id, MissingChunk(chunk.chunk_id)))
            elif place.raw_length != chunk.length and len(self._odd) < MOST_ODD:
                self._odd.append((object_id, chunk, place.raw_length))
        if self._note_chunks:
            self._spread.add_chunks(located.items())

    def _found(self, damage: Damage) -> Iterator[Damage]:
        if self._spread.mark_bad(Bad(damage.id, damage.pack_id, damage.what)):
            yield damage


def told_of(chunk_id: bytes, error: DamagedStore) -> Damage:
    """What reading a chunk came to, as damage."""
    if isinstance(error, CorruptChunk):
        return Damage("chunk", chunk_id, error.pack_id, error.detail)
    assert isinstance(error, MissingChunk)
    what = "no pack in the store holds it" if error.pack_id is None else "its pack is gone from the store"
    return Damage("chunk", chunk_id, error.pack_id, what)


def hurt_paths(store: SnapshotStore, spread: Spread, manifest_id: bytes) -> Iterator[bytes]:
    """Paths in a snapshot that cannot be read whole. A folder of which not even the names are known ends with `/`;
    `.` is the snapshot itself, and its hard links."""
    names = _names(manifest_id, _read(store, manifest_id))
    if names is None or manifest_id in spread.bad_among([manifest_id]):
        yield b"."
        return
    tree_id, *links = names.objects
    if spread.hurt_among(links):
        yield b"."
    stack = [(b"", tree_id)] if spread.hurt_among([tree_id]) else []
    while stack:
        path, object_id = stack.pop()
        prefix = path + b"/" if path else b""
        names = _names(object_id, _read(store, object_id))
        if names is None or spread.bad_among([object_id]):
            yield prefix or b"."
            continue
        hurt = spread.hurt_among(names.pages)
        stack += [(path, page) for page in reversed(names.pages) if page in hurt]
        for entry in _hurt(spread, names.entries):
            if isinstance(entry, DirectoryEntry):
                stack.append((prefix + entry.name, entry.tree_id))
            else:
                yield prefix + entry.name


def _hurt(spread: Spread, entries: Iterable[AnyEntry]) -> Iterator[AnyEntry]:
    """Of a folder's entries, those that need something that is hurt."""
    last = None
    for part in parts(((entry, need) for entry in entries for need in _needs(entry)), ASKED):
        hurt = spread.hurt_among([need for _, need in part])
        for entry, need in part:
            if need in hurt and entry is not last:
                last = entry
                yield entry


def _needs(entry: AnyEntry) -> Iterator[bytes]:
    match entry:
        case FileEntry():
            yield from (chunk.chunk_id for chunk in manifests.file_chunks(entry))
        case DirectoryEntry():
            yield entry.tree_id
        case _:
            pass


def _read(store: SnapshotStore, object_id: bytes) -> Found:
    return next(iter(store.try_chunks([object_id])))[1]


def _names(object_id: bytes, data: Found) -> Names | None:
    if isinstance(data, DamagedStore):
        return None
    try:
        return names_in(object_id, data)
    except BadManifest:
        return None
