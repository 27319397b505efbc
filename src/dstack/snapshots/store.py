"""Reading chunks and objects out of packs. Nothing leaves here that does not have its BLAKE3."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol, runtime_checkable

from dstack.domain.parts import parts
from dstack.sdk.blobs import BlobStore, Buffer
from dstack.snapshots import manifests
from dstack.snapshots.errors import BadManifest, CorruptChunk, DamagedStore, MissingChunk, StoreRefused
from dstack.snapshots.interfaces import Catalog, ChunkLocation, PackIndex, pack_key
from dstack.snapshots.packs import MAX_PACK, decode_chunk

GAP: Final = 128 * 1024
"""Bytes between two chunks that are read along rather than asked for twice."""
RANGE: Final = 16 * 1024 * 1024
"""The most one read asks for, a single larger chunk apart."""
LOCATE: Final = 4096
"""Chunk ids per question to the catalog."""
PAGES: Final = 32
"""Pages of one folder that are in memory at once."""
Found = bytes | memoryview | DamagedStore
"""The bytes of a chunk, or what is wrong with it."""


@runtime_checkable
class Durable(Protocol):
    """A blob store whose `put` does not wait for the disk."""

    def sync(self) -> None:
        """Return once everything that was put, also by earlier processes, would survive a power cut."""
        ...


@runtime_checkable
class Shared(Durable, Protocol):
    """One into which others put, too, as holders of signed requests."""

    def note(self, key: str) -> None:
        """Somebody has put `key`: the next `sync` is to wait for it."""
        ...


@runtime_checkable
class Losing(Durable, Protocol):
    """One that finds out what the disk has lost: `sync` raises StoreLost until that is let go of."""

    def let_go(self, keys: Iterable[str]) -> None:
        """Nothing relies on these any more."""
        ...


class _Read(NamedTuple):
    pack_id: bytes
    offset: int
    length: int
    chunks: list[tuple[bytes, ChunkLocation]]


class SnapshotStore:
    """Blobs and the catalog that finds chunks in them. Safe for threads if `blobs` is; the catalog need not be."""

    def __init__(self, blobs: BlobStore, catalog: Catalog) -> None:
        self.blobs = blobs
        self._catalog = catalog
        self._catalog_lock = threading.Lock()

    def missing(self, chunk_ids: Iterable[bytes]) -> set[bytes]:
        """Those that no pack holds yet."""
        found: set[bytes] = set()
        with self._catalog_lock, _refusals("the catalog of the store does not answer"):
            for batch in parts(chunk_ids, LOCATE):
                found |= self._catalog.missing(batch)
        return found

    def add(self, packs: Sequence[PackIndex]) -> None:
        """Record packs whose bytes are stored."""
        with self._catalog_lock, _refusals("the catalog of the store does not answer"):
            self._catalog.add(packs)

    def put(self, key: str, data: Buffer) -> None:
        """Store a blob. Raises StoreRefused."""
        with _refusals("the store does not take data"):
            self.blobs.put(key, data)

    def sync(self) -> None:
        """Wait until what was put survives a power cut."""
        if isinstance(self.blobs, Durable):
            self.blobs.sync()

    def read_chunk(self, chunk_id: bytes) -> bytes:
        """Raises MissingChunk, CorruptChunk."""
        return bytes(next(self.read_chunks([chunk_id]))[1])

    def locate(self, chunk_ids: Iterable[bytes]) -> Mapping[bytes, ChunkLocation]:
        """Where they lie now, those that no pack holds left out: for several reads of some of them."""
        found: dict[bytes, ChunkLocation] = {}
        for batch in parts(chunk_ids, LOCATE):
            found.update(self._locate(batch))
        return found

    def read_chunks(
        self, chunk_ids: Iterable[bytes], places: Mapping[bytes, ChunkLocation] | None = None
    ) -> Iterator[tuple[bytes, bytes | memoryview]]:
        """Each distinct chunk once, in the order of the packs. Raises MissingChunk, CorruptChunk.

        Neighbours in a pack come with one read. One batch of ids is in memory at a time, of their bytes one range.
        The catalog is not asked for what `locate` told in `places`.
        """
        for chunk_id, data in self.try_chunks(chunk_ids, places):
            if isinstance(data, DamagedStore):
                raise data
            yield chunk_id, data

    def try_chunks(
        self, chunk_ids: Iterable[bytes], places: Mapping[bytes, ChunkLocation] | None = None
    ) -> Iterator[tuple[bytes, Found]]:
        """As `read_chunks`, with what is wrong with a chunk in the place of its bytes.

        A chunk that is not where the catalog said is sought there once more: it may have been moved meanwhile.
        """
        for batch in parts(dict.fromkeys(chunk_ids), LOCATE):
            located = (
                self._locate(batch) if places is None else {item: places[item] for item in batch if item in places}
            )
            for chunk_id in batch:
                if chunk_id not in located:
                    yield chunk_id, MissingChunk(chunk_id)
            usable, unusable = _split(located.items())
            for read in (*unusable, *_coalesce(usable)):
                yield from self._read_or_seek(read)

    def try_located(self, located: Iterable[tuple[bytes, ChunkLocation]]) -> Iterator[tuple[bytes, Found]]:
        """Chunks from where they are said to lie, or what is wrong with them there; neighbours come with one read."""
        usable, unusable = _split(located)
        for read in (*unusable, *_coalesce(usable)):
            yield from self._read(read)

    def _read_or_seek(self, read: _Read) -> Iterator[tuple[bytes, Found]]:
        failed: dict[bytes, DamagedStore] = {}
        for chunk_id, data in self._read(read):
            if isinstance(data, DamagedStore):
                failed[chunk_id] = data
            else:
                yield chunk_id, data
        if failed:
            before, now = dict(read.chunks), self._locate(list(failed))
            moved = {chunk_id: place for chunk_id, place in now.items() if place != before[chunk_id]}
            yield from ((chunk_id, error) for chunk_id, error in failed.items() if chunk_id not in moved)
            yield from self.try_located(moved.items())

    def _locate(self, chunk_ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        with self._catalog_lock:
            return self._catalog.locate(chunk_ids)

    def root(self, manifest_id: bytes) -> manifests.Root:
        """Raises MissingChunk, CorruptChunk, BadManifest."""
        return manifests.decode_root(manifest_id, self.read_chunk(manifest_id))

    def links(self, root: manifests.Root) -> tuple[tuple[bytes, ...], ...]:
        """The groups of paths that are one file. Raises MissingChunk, CorruptChunk, BadManifest."""
        return manifests.decode_links(root.links, self.read_chunk(root.links)) if root.links else ()

    def directories(
        self, ids: Iterable[bytes], places: Mapping[bytes, ChunkLocation] | None = None
    ) -> dict[bytes, manifests.Directory]:
        """The objects of folders or pages; what pages a folder has is not read with it. Raises as `root`."""
        return {found: manifests.decode_directory(found, data) for found, data in self.read_chunks(ids, places)}

    def entries(
        self, tree_id: bytes, directory: manifests.Directory, ahead: Mapping[bytes, manifests.Directory]
    ) -> Iterator[Sequence[manifests.AnyEntry]]:
        """The entries of a folder in order, page by page; those that are not `ahead` are read PAGES at a time.

        Raises MissingChunk, CorruptChunk, BadManifest.
        """
        last = b""
        for page in self._pages(tree_id, directory, ahead):
            for entry in page.entries:
                if entry.name <= last:
                    raise BadManifest(tree_id, f"its names are not in order at {entry.name!r}")
                last = entry.name
            yield page.entries

    def _pages(
        self, tree_id: bytes, directory: manifests.Directory, ahead: Mapping[bytes, manifests.Directory]
    ) -> Iterator[manifests.Directory]:
        yield directory
        rest = iter(directory.pages)
        while group := list(islice(rest, PAGES)):
            read = self.directories([page for page in group if page not in ahead])
            for page in group:
                found = ahead.get(page) or read[page]
                if found.pages:
                    raise BadManifest(tree_id, "a page of it has pages")
                yield found

    def _read(self, read: _Read) -> Iterator[tuple[bytes, Found]]:
        if read.length < 1:
            why = "the catalog does not tell where it lies"
            yield from ((chunk_id, CorruptChunk(chunk_id, read.pack_id, why)) for chunk_id, _ in read.chunks)
            return
        try:
            data = memoryview(self.blobs.get(pack_key(read.pack_id), offset=read.offset, length=read.length))
        except KeyError:
            yield from ((chunk_id, MissingChunk(chunk_id, read.pack_id)) for chunk_id, _ in read.chunks)
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            why = f"the disk cannot read it ({error.strerror})"
            yield from ((chunk_id, CorruptChunk(chunk_id, read.pack_id, why)) for chunk_id, _ in read.chunks)
            return
        for chunk_id, location in read.chunks:
            start = location.offset - read.offset
            try:
                found = decode_chunk(chunk_id, location, data[start : start + location.stored_length])
            except CorruptChunk as error:
                yield chunk_id, error
            else:
                yield chunk_id, found


@contextlib.contextmanager
def _refusals(what: str) -> Generator[None]:
    """Errors of the store's system calls and connections, told apart from those of the files that are saved."""
    try:
        yield
    except OSError as error:
        raise StoreRefused(f"{what}: {error}") from error


def _split(
    located: Iterable[tuple[bytes, ChunkLocation]],
) -> tuple[list[tuple[bytes, ChunkLocation]], list[_Read]]:
    """What can be read, and what cannot: the catalog gives it no place."""
    usable: list[tuple[bytes, ChunkLocation]] = []
    unusable: list[_Read] = []
    for chunk_id, place in located:
        if not (1 <= place.stored_length <= MAX_PACK and 0 <= place.offset <= MAX_PACK):
            unusable.append(_Read(place.pack_id, 0, 0, [(chunk_id, place)]))
        else:
            usable.append((chunk_id, place))
    return usable, unusable


def _coalesce(located: Iterable[tuple[bytes, ChunkLocation]]) -> Iterator[_Read]:
    read: _Read | None = None
    for chunk_id, location in sorted(located, key=lambda item: (item[1].pack_id, item[1].offset)):
        end = location.offset + location.stored_length
        if (
            read is not None
            and read.pack_id == location.pack_id
            and location.offset - read.offset - read.length <= GAP
            and end - read.offset <= RANGE
        ):
            read.chunks.append((chunk_id, location))
            read = read._replace(length=max(read.length, end - read.offset))
            continue
        if read is not None:
            yield read
        read = _Read(location.pack_id, location.offset, location.stored_length, [(chunk_id, location)])
    if read is not None:
        yield read
