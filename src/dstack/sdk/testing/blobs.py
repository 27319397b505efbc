"""What every blob store must do. A plugin's tests inherit the suite and are proven by it:

    class TestMyStore(BlobStoreConformance):
        def make_store(self, tmp_path: Path) -> BlobStore:
            return MyStore(…)

`make_store` gives an empty store each time. @plugin-dev: a store that passes may be used for packs; nothing else of a
store is relied on.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dstack.sdk.blobs import BlobStore


class BlobStoreConformance:
    """Inherit, and give `make_store`. Keys that stores see look like `packs/ab/abcdef…`."""

    def make_store(self, tmp_path: Path) -> BlobStore:
        """An empty store."""
        raise NotImplementedError("make_store gives the store to test")

    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return self.make_store(tmp_path)

    @pytest.mark.parametrize("size", [0, 1, 4096, 3 * 1024 * 1024 + 1])
    def test_gives_back_what_was_put(self, store: BlobStore, size: int) -> None:
        data = _pattern(size)
        assert store.put("packs/ab/one", data) is True
        assert store.get("packs/ab/one") == data

    @pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
    def test_takes_any_buffer(self, store: BlobStore, wrap: type[bytes | bytearray | memoryview]) -> None:
        store.put("packs/ab/one", wrap(b"content"))
        assert store.get("packs/ab/one") == b"content"

    def test_keeps_its_own_copy(self, store: BlobStore) -> None:
        data = bytearray(b"content")
        store.put("packs/ab/one", data)
        data[:] = b"changed"
        assert store.get("packs/ab/one") == b"content"

    def test_takes_a_file_and_leaves_it_there(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(_pattern(100_000))
        assert store.put("packs/ab/one", source) is True
        source.write_bytes(b"changed afterwards")
        assert store.get("packs/ab/one") == _pattern(100_000)

    def test_a_second_put_changes_nothing_and_says_so(self, store: BlobStore, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"other")
        store.put("packs/ab/one", b"first")
        assert store.put("packs/ab/one", b"second") is False
        assert store.put("packs/ab/one", other) is False
        assert store.get("packs/ab/one") == b"first"

    def test_of_many_writers_one_wins(self, store: BlobStore) -> None:
        contents = [bytes([number]) * 10_000 for number in range(8)]

        def put(content: bytes) -> bool:
            return store.put("packs/ab/one", content)

        with ThreadPoolExecutor(len(contents)) as threads:
            outcomes = list(threads.map(put, contents))
        assert outcomes.count(True) == 1
        assert store.get("packs/ab/one") == contents[outcomes.index(True)]

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (0, 4, b"0123"),
            (3, 4, b"3456"),
            (7, None, b"789"),
            (7, 3, b"789"),
            (7, 100, b"789"),
            (3, 0, b""),
            (10, None, b""),
            (25, 5, b""),
        ],
    )
    def test_reads_a_range(self, store: BlobStore, offset: int, length: int | None, expected: bytes) -> None:
        store.put("packs/ab/one", b"0123456789")
        assert store.get("packs/ab/one", offset=offset, length=length) == expected

    def test_a_missing_key_is_a_key_error(self, store: BlobStore) -> None:
        with pytest.raises(KeyError):
            store.get("packs/ab/none")
        store.put("packs/ab/one", b"")
        with pytest.raises(KeyError):
            store.get("packs/ab/none", offset=1, length=1)

    def test_stat_tells_size_and_time(self, store: BlobStore) -> None:
        assert store.stat("packs/ab/one") is None
        store.put("packs/ab/one", b"12345")
        found = store.stat("packs/ab/one")
        assert found is not None
        assert (found.key, found.size) == ("packs/ab/one", 5)
        assert abs(found.modified - time.time_ns() // 1000) < timedelta(hours=1) // timedelta(microseconds=1)

    def test_lists_every_key_of_a_prefix_once(self, store: BlobStore) -> None:
        keys = [f"packs/{number % 7:02x}/{number:040x}" for number in range(1100)]
        for key in keys:
            store.put(key, b"x")
        store.put("packs-not/ab/one", b"other")
        store.put("logs/ab/one", b"other")
        assert sorted(found.key for found in store.list("packs/")) == sorted(keys)
        assert {found.size for found in store.list("packs/")} == {1}
        assert sorted(found.key for found in store.list("packs/03/")) == sorted(
            key for key in keys if key.startswith("packs/03/")
        )
        assert len(list(store.list(""))) == len(keys) + 2
        assert list(store.list("nothing/")) == []

    def test_a_prefix_need_not_end_at_a_slash(self, store: BlobStore) -> None:
        for key in ("packs/ab/one", "packs/ac/two", "packs/b0/three"):
            store.put(key, b"x")
        assert sorted(found.key for found in store.list("packs/a")) == ["packs/ab/one", "packs/ac/two"]

    def test_deletes_what_is_there_and_ignores_the_rest(self, store: BlobStore) -> None:
        store.put("packs/ab/one", b"1")
        store.put("packs/ab/two", b"2")
        store.delete(["packs/ab/one", "packs/ab/none"])
        store.delete([])
        assert store.stat("packs/ab/one") is None
        assert [found.key for found in store.list("")] == ["packs/ab/two"]
        assert store.put("packs/ab/one", b"again") is True

    def test_a_signed_request_is_a_url_with_an_end(self, store: BlobStore) -> None:
        store.put("packs/ab/one", b"content")
        signed = store.sign("GET", "packs/ab/one", timedelta(minutes=5))
        if signed is None:
            return  # a store may have no address that others can reach
        assert signed.method == "GET"
        left = signed.expires - time.time_ns() // 1000
        assert 0 < left <= timedelta(minutes=6) // timedelta(microseconds=1)
        url = urlsplit(signed.url)
        assert url.scheme in {"http", "https", "file"}
        if url.scheme == "file":
            assert Path(unquote(url.path)).read_bytes() == b"content"


def _pattern(size: int) -> bytes:
    """Bytes in which no part looks like another."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]
