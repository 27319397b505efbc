"""One name of a large folder: found among few of its pages, and as surely as among all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from dstack.snapshots.chunking import DEFAULT
from dstack.snapshots.errors import BadManifest, RestoreFailed
from dstack.snapshots.finding import FEW, Found, find
from dstack.snapshots.interfaces import ChunkLocation
from dstack.snapshots.listing import entries
from dstack.snapshots.manifests import Directory, Encoded, FileEntry, Root, encode_root
from dstack.snapshots.packs import PackBuilder, pack_key
from tests.support.objects import encode_directory
from tests.support.stores import RecordingStore

COUNT = 20_000
NAMES = [b"sample-%06d" % (2 * number) for number in range(COUNT)]


def entry(name: bytes) -> FileEntry:
    return FileEntry(name, 0o644, 1, 1, name.ljust(32, b"."))


def keep(store: RecordingStore, objects: Sequence[Encoded]) -> None:
    builder = PackBuilder()
    for found in objects:
        builder.add(found.id, found.data)
    data, index = builder.seal()
    store.put(pack_key(index.pack_id), data)
    store.add([index])


@pytest.fixture(scope="module")
def large() -> tuple[RecordingStore, bytes]:
    store = RecordingStore()
    objects = encode_directory([entry(name) for name in NAMES])
    keep(store, objects)
    assert len(objects) > 3 * FEW
    return store, objects[-1].id


def size_of(large: tuple[RecordingStore, bytes]) -> int:
    return sum(place.stored_length for place in large[0].catalog.chunks.values())


def sought(large: tuple[RecordingStore, bytes], name: bytes) -> Found:
    store, tree_id = large
    return find(store, tree_id, store.directories([tree_id])[tree_id], name)


def test_each_name_is_found(large: tuple[RecordingStore, bytes]) -> None:
    store, tree_id = large
    pages = store.directories(store.directories([tree_id])[tree_id].pages).values()
    at_borders = [found.name for page in pages for found in (page.entries[0], page.entries[-1])]
    for name in (*NAMES[::997], *at_borders):
        assert sought(large, name).entry == entry(name)


@pytest.mark.parametrize("number", [-1, 1, 2 * COUNT + 1, *range(999, 2 * COUNT, 3998)])
def test_what_is_not_there_is_not_found_and_its_neighbours_are(
    large: tuple[RecordingStore, bytes], number: int
) -> None:
    name = b"sample-" if number < 0 else b"sample-%06d" % number
    found = sought(large, name)
    assert found.entry is None
    around = [NAMES[min(COUNT - 1, max(0, index))] for index in (number // 2, number // 2 + 1)]
    assert set(found.near) & set(around)
    assert list(found.near) == sorted(found.near)


@pytest.fixture
def questions(large: tuple[RecordingStore, bytes], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids the catalog is asked for at a time."""
    counts: list[int] = []
    answered = large[0].catalog.locate

    def locate(ids: Sequence[bytes]) -> Mapping[bytes, ChunkLocation]:
        counts.append(len(ids))
        return answered(ids)

    monkeypatch.setattr(large[0].catalog, "locate", locate)
    return counts


def test_few_pages_are_read_and_the_catalog_is_asked_for_them_once(
    large: tuple[RecordingStore, bytes], questions: list[int]
) -> None:
    fetched = large[0].memory.fetched
    fetched.clear()
    assert sought(large, NAMES[777]).entry == entry(NAMES[777])
    assert sum(fetched) < size_of(large) / 4
    assert len(fetched) <= 5
    assert (len(questions), questions[0]) == (2, 1)


def test_one_file_of_a_large_folder_is_listed_without_the_others(
    large: tuple[RecordingStore, bytes],
) -> None:
    store, tree_id = large
    fetched = store.memory.fetched
    fetched.clear()
    root = encode_root(Root(tree_id, tree_id, 0o755, 0, COUNT, COUNT, DEFAULT))
    keep(store, [root])
    assert [found.path for found in entries(store, root.id, NAMES[4711])] == [NAMES[4711]]
    assert sum(fetched) < size_of(large) / 4
    with pytest.raises(RestoreFailed, match="not in the snapshot: sample-1"):
        list(entries(store, root.id, b"sample-1"))


def test_a_page_without_a_name_hides_nothing() -> None:
    """No writer makes one, and readers accept any division."""
    store = RecordingStore()
    objects = encode_directory([entry(name) for name in NAMES[:6000]])
    (empty,) = encode_directory([])
    keep(store, [*objects, empty])
    pages = [found.id for found in objects[:-1]]
    assert len(pages) > FEW
    middle = (len(pages) + 1) // 2
    directory = Directory((*pages[:middle], empty.id, *pages[middle:]), ())
    for name in NAMES[:6000:499]:
        assert find(store, objects[-1].id, directory, name).entry == entry(name)


def test_a_page_with_pages_is_refused() -> None:
    store = RecordingStore()
    objects = encode_directory([entry(name) for name in NAMES[:1000]])
    keep(store, objects)
    with pytest.raises(BadManifest, match="a page of it has pages"):
        find(store, objects[-1].id, Directory((objects[-1].id,) * (FEW + 1), ()), NAMES[0])
