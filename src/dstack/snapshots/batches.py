"""What a restore does, cut into batches whose bytes are read ahead; what several of them need is fetched once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Final, NamedTuple

from dstack.snapshots.errors import BadManifest
from dstack.snapshots.listing import Enter, Leaf, Leave, Step
from dstack.snapshots.manifests import ChunkRef, FileEntry, file_chunks
from dstack.snapshots.sparse import NONE, Holes, zeros_id
from dstack.snapshots.store import SnapshotStore

BATCH_BYTES: Final = 16 * 1024 * 1024
BATCH_STEPS: Final = 2048
AHEAD: Final = 2
"""Batches that are read while one is written; 64 MiB in all."""

Bytes = bytes | memoryview
Chunks = Mapping[bytes, Bytes]
"""The bytes of chunks, by id."""
Lengths = Mapping[bytes, int]
"""How long chunks are, by id."""
Known = Callable[[Lengths], Chunks]
"""Gives of some chunks those that need not be fetched."""


class Part(NamedTuple):
    """A run of a file, from `offset` to `end`; the last one ends with the file."""

    leaf: Leaf
    entry: FileEntry
    holes: Holes
    offset: int
    end: int
    chunks: list[tuple[int, ChunkRef]]
    """Each with its offset in the file; zeros that lie in a hole are not among them."""


Work = Part | Enter | Leaf | Leave


class Batch(NamedTuple):
    work: list[Work]
    chunks: list[ChunkRef]


class _Reading(NamedTuple):
    """A batch whose bytes are being read."""

    batch: Batch
    ids: frozenset[bytes]
    found: Future[Chunks]


def read_ahead(
    batches: Iterator[Batch],
    read: Callable[[list[ChunkRef], Known], Chunks],
    readers: ThreadPoolExecutor,
) -> Iterator[tuple[Batch, Chunks]]:
    """Each batch with its bytes, while those of the next ones are read. `read` is told what is being read already."""
    reading: deque[_Reading] = deque()
    for batch in batches:
        ids = frozenset(chunk.chunk_id for chunk in batch.chunks)
        found = readers.submit(read, batch.chunks, _known_from([one for one in reading if not ids.isdisjoint(one.ids)]))
        reading.append(_Reading(batch, ids, found))
        if len(reading) > AHEAD:
            yield _done(reading.popleft())
    while reading:
        yield _done(reading.popleft())


def _done(reading: _Reading) -> tuple[Batch, Chunks]:
    return reading.batch, reading.found.result()


def _known_from(earlier: Sequence[_Reading]) -> Known:
    """What earlier batches have read; waits for them. They were begun before, so none of them waits for this one."""

    def known(lengths: Lengths) -> Chunks:
        # Copies: a piece of what was read at once would keep all of that in memory.
        return {item: bytes(one.found.result()[item]) for one in earlier for item in one.ids & lengths.keys()}

    return known


def read_whole(
    store: SnapshotStore, manifest_id: bytes, chunks: Sequence[ChunkRef], known: Known = lambda _: {}
) -> Chunks:
    """The bytes of chunks; raises BadManifest where they are not as many as it says, before memory is full."""
    lengths: dict[bytes, int] = {}
    for chunk_id, length in chunks:
        if lengths.setdefault(chunk_id, length) != length:
            raise BadManifest(manifest_id, f"it gives chunk {chunk_id.hex()} two lengths")
    here = known(lengths)
    found: dict[bytes, Bytes] = {}
    missing = [chunk_id for chunk_id in lengths if chunk_id not in here]
    for chunk_id, data in chain(here.items(), store.read_chunks(missing)):
        if len(data) != lengths[chunk_id]:
            raise BadManifest(manifest_id, f"chunk {chunk_id.hex()} is not as long as it says")
        found[chunk_id] = data
    return found


def batches_of(steps: Iterator[Step], links: dict[bytes, int]) -> Iterator[Batch]:
    batch = Batch([], [])
    held = 0
    for work, size in _work(steps, links):
        if batch.work and (held + size > BATCH_BYTES or len(batch.work) >= BATCH_STEPS):
            yield batch
            batch, held = Batch([], []), 0
        batch.work.append(work)
        if isinstance(work, Part):
            batch.chunks.extend([chunk for _, chunk in work.chunks])
        held += size
    yield batch


def _work(steps: Iterator[Step], links: dict[bytes, int]) -> Iterator[tuple[Work, int]]:
    """The steps with files cut into parts of at most half a batch, each with its size in memory."""
    linked: set[tuple[int, bytes]] = set()
    for step in steps:
        if not isinstance(step, Leaf) or not isinstance(step.entry, FileEntry):
            yield step, 0
            continue
        group = links.get(step.path)
        if group is not None:
            if (group, step.entry.digest) in linked:
                yield step, 0  # becomes a link to one that was made before
                continue
            linked.add((group, step.entry.digest))
        yield from _parts(step, step.entry)


def _parts(leaf: Leaf, entry: FileEntry) -> Iterator[tuple[Part, int]]:
    holes = Holes(entry.holes) if entry.holes else NONE
    offset = end = size = 0
    chunks: list[tuple[int, ChunkRef]] = []
    for chunk in file_chunks(entry):
        if not (entry.holes and holes.left(end) >= chunk.length and zeros_id(chunk.length) == chunk.chunk_id):
            if chunks and size + chunk.length > BATCH_BYTES // 2:
                yield Part(leaf, entry, holes, offset, end, chunks), size
                offset, size, chunks = end, 0, []
            chunks.append((end, chunk))
            size += chunk.length
        end += chunk.length
    yield Part(leaf, entry, holes, offset, entry.size, chunks), size
