"""The format byte by byte: golden files, the page that specifies it, and a reader written from that page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dstack.snapshots import manifests
from dstack.snapshots.blobs.memory import MemoryBlobStore
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.chunking import Chunker, ChunkerParameters
from dstack.snapshots.lookup import locate
from dstack.snapshots.reading import WINDOW
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore
from tests.contract.snapshots import make_golden, spec_reader
from tests.support.packs import rebuild, verify_pack
from tests.support.trees import described

GOLDEN: dict[str, Any] = json.loads((make_golden.GOLDEN / "golden.json").read_text())
PACKS = {key: (make_golden.GOLDEN / name).read_bytes() for key, name in GOLDEN["packs"].items()}
TREE = bytes.fromhex(GOLDEN["tree"]["manifest_id"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    make_golden.make_tree(root)
    return root


def golden_store() -> SnapshotStore:
    """The golden packs, and a catalog made from nothing but them."""
    blobs, catalog = MemoryBlobStore(), MemoryCatalog()
    for key, data in PACKS.items():
        blobs.put(key, data)
    assert rebuild(blobs, catalog) == len(PACKS)
    return SnapshotStore(blobs, catalog)


def test_the_same_folder_gives_the_same_bytes(tree: Path) -> None:
    saved, blobs = make_golden.save_tree(tree)
    assert saved.warnings == ()
    assert saved.manifest_id == TREE
    assert saved.content_id.hex() == GOLDEN["tree"]["content_id"]
    assert set(blobs.items()) <= set(PACKS.items())


def test_chosen_files_give_the_same_ids(tree: Path) -> None:
    saved, _ = make_golden.save_tree(tree, make_golden.CHOSEN)
    assert saved.manifest_id.hex() == GOLDEN["chosen"]["manifest_id"]
    assert saved.content_id.hex() == GOLDEN["chosen"]["content_id"]


def test_a_file_of_many_chunks_gives_the_same_ids(tmp_path: Path) -> None:
    make_golden.make_stream(tmp_path / "big")
    saved, blobs = make_golden.save_tree(tmp_path / "big")
    assert saved.manifest_id.hex() == GOLDEN["stream"]["manifest_id"]
    assert saved.content_id.hex() == GOLDEN["stream"]["content_id"]
    spec_reader.restore(blobs, saved.manifest_id, tmp_path / "out")
    assert (tmp_path / "out" / "stream").read_bytes() == make_golden.stream()


def test_the_golden_tree_is_restored(tree: Path, tmp_path: Path) -> None:
    restore(golden_store(), TREE, tmp_path / "out")
    assert described(tmp_path / "out") == described(tree)
    assert (tmp_path / "out/plain.txt").stat().st_ino == (tmp_path / "out/sub/hard-link").stat().st_ino


def test_a_reader_written_from_the_page_restores_it(tree: Path, tmp_path: Path) -> None:
    spec_reader.restore(PACKS, TREE, tmp_path / "out")
    assert described(tmp_path / "out") == described(tree)


def test_a_reader_written_from_the_page_restores_what_is_saved_now(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for number in range(700):
        folder = root / f"folder {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number}").write_bytes(b"%d" % number * (number % 50))
    (root / "big").write_bytes(make_golden.stream(3_000_000) + bytes(3_000_000))
    saved, blobs = make_golden.save_tree(root)
    spec_reader.restore(blobs, saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(root)


def test_holes_and_compressed_chunks_give_the_same_ids(tmp_path: Path) -> None:
    """Their bytes may differ with the version of zstd; what was written before is read."""
    make_golden.make_sparse(tmp_path / "in")
    saved, blobs = make_golden.save_tree(tmp_path / "in")
    assert saved.manifest_id.hex() == GOLDEN["sparse"]["manifest_id"]
    assert saved.content_id.hex() == GOLDEN["sparse"]["content_id"]
    restore(golden_store(), saved.manifest_id, tmp_path / "out")
    assert described(tmp_path / "out") == described(tmp_path / "in")
    for number, packs in enumerate((PACKS, blobs)):
        spec_reader.restore(packs, saved.manifest_id, tmp_path / f"by the page {number}")
        assert described(tmp_path / f"by the page {number}") == described(tmp_path / "in")


def test_the_sparse_golden_pack_has_both_codecs() -> None:
    (key,) = (key for key, name in GOLDEN["packs"].items() if name == "sparse.pack")
    assert {entry.codec for entry in verify_pack(key, PACKS[key]).chunks} == {0, 1}


def test_a_compressed_chunk_is_read() -> None:
    (key,) = (key for key, name in GOLDEN["packs"].items() if name == "zstd.pack")
    (entry,) = verify_pack(key, PACKS[key]).chunks
    assert entry.codec == 1
    assert golden_store().read_chunk(entry.chunk_id) == b"compressible " * 100


def test_the_big_folder_of_the_golden_tree_has_pages() -> None:
    """Else the golden files would prove nothing about pages."""
    store = golden_store()
    paged = locate(store, TREE, b"paged").entry
    assert isinstance(paged, manifests.DirectoryEntry)
    directory = manifests.decode_directory(paged.tree_id, store.read_chunk(paged.tree_id))
    assert len(directory.pages) == 3


def test_cuts_are_those_of_the_vectors_and_of_the_page() -> None:
    data = make_golden.stream()
    cuts = GOLDEN["stream"]["cuts"]
    assert sum(cuts) == len(data)
    assert Chunker().cut(memoryview(data), final=True) == cuts
    assert list(spec_reader.cut(data)) == cuts


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 262_146, 524_288, 524_289, 524_291])
def test_cuts_at_the_borders_are_those_of_the_page(size: int) -> None:
    for data in (make_golden.stream(size), bytes(size)):
        assert Chunker().cut(memoryview(data), final=True) == list(spec_reader.cut(data))


@pytest.mark.parametrize("window", [2_097_152, 2_500_001, WINDOW])
def test_cuts_do_not_depend_on_the_window(window: int) -> None:
    data = memoryview(make_golden.stream())
    chunker, done, cuts = Chunker(), 0, list[int]()
    while done < len(data):
        part = data[done : done + window]
        lengths = chunker.cut(part, final=done + len(part) == len(data))
        cuts += lengths
        done += sum(lengths)
    assert cuts == GOLDEN["stream"]["cuts"]


def test_a_small_change_moves_few_cuts() -> None:
    """What content-defined cutting is for: after an insertion the old chunks come again."""
    parameters = ChunkerParameters(minimum=1024, average=4096, maximum=8192)
    before = make_golden.stream(400_000)
    after = before[:200_000] + b"inserted" + before[200_000:]
    old, new = (set(_pieces(data, parameters)) for data in (before, after))
    assert len(old) > 50
    assert len(new - old) <= 4


def _pieces(data: bytes, parameters: ChunkerParameters) -> list[bytes]:
    pieces, done = list[bytes](), 0
    for length in Chunker(parameters).cut(memoryview(data), final=True):
        pieces.append(data[done : done + length])
        done += length
    return pieces


def test_golden_packs_are_whole() -> None:
    for key, data in PACKS.items():
        assert verify_pack(key, data).size == len(data)
