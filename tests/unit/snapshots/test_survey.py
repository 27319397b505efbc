"""Going through objects that are damaged, or were never right, and telling which paths that reaches."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from dstack.snapshots import manifests
from dstack.snapshots.checking import Damage, begins_like_an_object, names_in
from dstack.snapshots.chunking import DEFAULT, digest
from dstack.snapshots.errors import BadManifest
from dstack.snapshots.manifests import (
    ChunkRef,
    DirectoryEntry,
    Encoded,
    FileEntry,
    Root,
    SymlinkEntry,
    encode_links,
    encode_root,
    pack_chunks,
)
from dstack.snapshots.spread import Bad, Spread
from dstack.snapshots.survey import Survey, hurt_paths
from tests.support.objects import encode_directory
from tests.support.packs import put_pack
from tests.support.stores import RecordingStore


@pytest.fixture
def spread() -> Iterator[Spread]:
    with Spread() as made:
        yield made


def file_of(name: bytes, *pieces: bytes) -> FileEntry:
    data = b"".join(pieces)
    chunks = pack_chunks(ChunkRef(digest(piece), len(piece)) for piece in pieces) if len(pieces) > 1 else b""
    return FileEntry(name, 0o644, 1, len(data), digest(data), chunks)


def folder_of(name: bytes, below: list[Encoded]) -> DirectoryEntry:
    return DirectoryEntry(name, 0o755, 1, below[-1].id, digest(name), 1, 1)


def root_of(top: bytes, links: bytes = b"") -> Encoded:
    return encode_root(Root(top, digest(top), 0o755, 1, 100, 10_000, DEFAULT, links))


def survey(store: RecordingStore, spread: Spread, manifest_id: bytes) -> list[Damage]:
    spread.add_objects([manifest_id], manifests.ROOT)
    made = Survey(store, store.catalog, spread)
    found = [damage for damage in made.follow() if damage is not None]
    found += made.odd()
    for _ in made.link():
        pass
    spread.spread()
    return found


def test_a_snapshot_that_is_whole(store: RecordingStore, spread: Spread) -> None:
    below = encode_directory([file_of(b"a", b"one", b"two"), SymlinkEntry(b"b", 0o777, 1, b"a")])
    top = encode_directory([folder_of(b"x", below), file_of(b"y", b"three"), file_of(b"z")])
    links = encode_links([[b"x/a", b"y"]])
    root = root_of(top[-1].id, links.id)
    put_pack(store, b"one", b"two", b"three")
    put_pack(store, *(item.data for item in (*below, *top, links, root)))
    assert survey(store, spread, root.id) == []
    assert not spread.any_bad
    assert not spread.hurt_among([root.id])


def test_only_the_way_to_what_is_damaged_is_hurt(store: RecordingStore, spread: Spread) -> None:
    hurt = encode_directory([file_of(b"a", b"one", b"two"), file_of(b"b", b"four")])
    whole = encode_directory([file_of(b"a", b"three")])
    gone = encode_directory([file_of(b"c", b"five")])
    top = encode_directory([folder_of(b"gone", gone), folder_of(b"hurt", hurt), folder_of(b"whole", whole)])
    root = root_of(top[-1].id)
    put_pack(store, b"one", b"three", b"four")
    put_pack(store, *(item.data for item in (*hurt, *whole, *top, root)))
    found = survey(store, spread, root.id)
    assert {(damage.kind, damage.id) for damage in found} == {("chunk", digest(b"two")), ("chunk", gone[-1].id)}
    assert spread.hurt_among([root.id, top[-1].id, hurt[-1].id, whole[-1].id]) == {root.id, top[-1].id, hurt[-1].id}
    assert sorted(hurt_paths(store, spread, root.id)) == [b"gone/", b"hurt/a"]


def test_pages_of_a_large_folder(store: RecordingStore, spread: Spread) -> None:
    entries = [file_of(b"%05d" % number, b"%d" % number) for number in range(5000)]
    objects = encode_directory(entries)
    assert len(objects) > 3, "the folder has pages"
    root = root_of(objects[-1].id)
    put_pack(store, *(b"%d" % number for number in range(5000) if number != 4321))
    put_pack(store, *(item.data for item in objects), root.data)
    assert [damage.id for damage in survey(store, spread, root.id)] == [digest(b"4321")]
    assert list(hurt_paths(store, spread, root.id)) == [b"04321"]


def test_a_snapshot_whose_root_is_gone(store: RecordingStore, spread: Spread) -> None:
    nowhere = digest(b"nowhere")
    assert [damage.id for damage in survey(store, spread, nowhere)] == [nowhere]
    assert list(hurt_paths(store, spread, nowhere)) == [b"."]


def test_hard_links_that_cannot_be_read(store: RecordingStore, spread: Spread) -> None:
    top = encode_directory([file_of(b"a", b"one")])
    root = root_of(top[-1].id, digest(b"gone"))
    put_pack(store, b"one", *(item.data for item in (*top, root)))
    assert [damage.id for damage in survey(store, spread, root.id)] == [digest(b"gone")]
    assert list(hurt_paths(store, spread, root.id)) == [b"."]


def test_an_object_that_gives_a_chunk_another_length(store: RecordingStore, spread: Spread) -> None:
    lying = FileEntry(b"a", 0o644, 1, 4, digest(b"one"))
    top = encode_directory([lying])
    root = root_of(top[-1].id)
    put_pack(store, b"one", *(item.data for item in (*top, root)))
    [damage] = survey(store, spread, root.id)
    assert (damage.kind, damage.id) == ("object", top[-1].id)
    assert "4 bytes, and there are 3" in damage.what


@pytest.mark.parametrize("how", ["pages in pages", "pages out of order", "names out of order", "both"])
def test_objects_that_break_a_rule_are_named(store: RecordingStore, spread: Spread, how: str) -> None:
    first, second = (directory((), (file_of(name, b"one"),)) for name in (b"a", b"b"))
    match how:
        case "pages in pages":
            inner = directory((first.id,), ())
            bad, outer = inner, directory((inner.id,), ())
        case "pages out of order":
            bad = outer = directory((second.id, first.id), ())
        case "names out of order":
            bad = outer = directory((), (file_of(b"b", b"one"), file_of(b"a", b"one")))
        case _:
            bad = outer = directory((first.id,), (file_of(b"b", b"one"),))
    root = root_of(outer.id)
    put_pack(store, b"one", *{item.id: item.data for item in (first, second, bad, outer, root)}.values())
    [damage] = survey(store, spread, root.id)
    assert (damage.kind, damage.id) == ("object", bad.id)
    assert spread.hurt_among([root.id])


def test_an_object_of_another_kind_is_not_what_was_named(store: RecordingStore, spread: Spread) -> None:
    top = encode_directory([file_of(b"a", b"one")])
    links = encode_links([[b"a", b"b"]])
    root = root_of(links.id)
    put_pack(store, b"one", *(item.data for item in (*top, links, root)))
    assert [damage.id for damage in survey(store, spread, root.id)] == [links.id]
    assert [damage.id for damage in survey(store, spread, top[-1].id)] == [top[-1].id]


def test_what_is_no_object_names_nothing() -> None:
    assert begins_like_an_object(b"DSTACKd\x01...")
    assert not begins_like_an_object(b"DSTACKp\x01")
    assert not begins_like_an_object(b"DST")
    for data in (b"", b"DSTACKd\x01", b"DSTACKd\x02" + b"x", b"no object at all"):
        with pytest.raises(BadManifest):
            names_in(digest(data), data)


def test_what_is_bad_is_known_once_and_can_be_forgotten(spread: Spread) -> None:
    ids = [digest(b"%d" % number) for number in range(1200)]
    assert all(spread.mark_bad(Bad(item, None, "why")) for item in ids)
    assert not spread.mark_bad(Bad(ids[0], b"pack", "again"))
    assert [bad.id for bad in spread.all_bad()] == sorted(ids)
    spread.forget_bad(ids[:600])
    assert spread.bad_among(ids) == set(ids[600:])
    spread.link(b"parent" * 5, [ids[700]])
    spread.link(b"grandparent", [b"parent" * 5])
    spread.spread()
    assert list(spread.hurt_objects()) == [b"grandparent", b"parent" * 5]


def directory(pages: tuple[bytes, ...], entries: tuple[FileEntry, ...]) -> Encoded:
    """A directory object as no writer of ours would make it."""
    data = manifests.DIRECTORY + msgspec.msgpack.encode(manifests.Directory(pages, entries))
    return Encoded(digest(data), data)
