"""The store seen from a client, against every way in which packs may be kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dstack.client.api import Api
from dstack.client.store import RemoteCatalog, SignedBlobs, remote_store
from dstack.client.wire import SocketTransport
from dstack.snapshots.capture import save
from dstack.snapshots.errors import StoreRefused
from dstack.snapshots.interfaces import ChunkLocation
from dstack.snapshots.restore import restore
from tests.support.stub_api import PROJECT, Reply, StubApi, error
from tests.support.stub_store import serve

KEY = "packs/ab/" + "ab" * 32


@pytest.fixture
def stub() -> Iterator[StubApi]:
    stub = StubApi()
    yield stub
    stub.close()


@pytest.fixture
def api(stub: StubApi) -> Iterator[Api]:
    with Api(lambda: SocketTransport(stub.path), patience=0.2) as api:
        yield api


def test_a_folder_saved_over_the_api_comes_back(stub: StubApi, api: Api, tmp_path: Path) -> None:
    serve(stub, f"file://{tmp_path}/store/KEY")
    (tmp_path / "store").mkdir()
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_bytes(b"x" * 3_000_000)
    (source / "y").symlink_to("sub/x")
    store = remote_store(api)
    saved = save(source, store)
    store.sync()
    restore(store, saved.manifest_id, tmp_path / "target")
    assert (tmp_path / "target" / "sub" / "x").read_bytes() == b"x" * 3_000_000
    assert (tmp_path / "target" / "y").readlink() == Path("sub/x")
    # Nothing went through the server but the catalog and the signatures.
    assert {call.path.rpartition("/")[2] for call in stub.calls} <= {"missing", "locate", "add", "sign", "sync"}


class TestOnThisHost:
    def test_put_and_get(self, stub: StubApi, api: Api, tmp_path: Path) -> None:
        serve(stub, f"file://{tmp_path}/a%20b/KEY")
        (tmp_path / "a b").mkdir()
        blobs = SignedBlobs(api)
        assert blobs.put(KEY, b"0123456789")
        assert not blobs.put(KEY, b"0123456789")
        assert (tmp_path / "a b" / KEY).read_bytes() == b"0123456789"
        assert blobs.get(KEY) == b"0123456789"
        assert blobs.get(KEY, offset=2, length=3) == b"234"
        with pytest.raises(KeyError):
            blobs.get("packs/cd/" + "cd" * 32)

    def test_a_request_is_signed_once_until_it_expires(self, stub: StubApi, api: Api, tmp_path: Path) -> None:
        serve(stub, f"file://{tmp_path}/KEY")
        blobs = SignedBlobs(api)
        blobs.put(KEY, b"x")
        for _ in range(3):
            blobs.get(KEY)
        assert len(stub.named("POST …/store/sign")) == 2
        serve(stub, f"file://{tmp_path}/KEY", ttl=1)
        old = SignedBlobs(api)
        for _ in range(3):
            old.get(KEY)
        assert len(stub.named("POST …/store/sign")) == 5

    def test_the_store_moved_since(self, stub: StubApi, api: Api, tmp_path: Path) -> None:
        """What was signed before leads to the old place: it is asked for anew, and nothing is written there."""
        serve(stub, f"file://{tmp_path}/old/KEY")
        (tmp_path / "old").mkdir()
        blobs = SignedBlobs(api)
        blobs.put(KEY, b"0123456789")
        assert blobs.get(KEY) == b"0123456789"
        (tmp_path / "old").rename(tmp_path / "new")
        serve(stub, f"file://{tmp_path}/new/KEY")
        assert blobs.get(KEY, offset=2, length=3) == b"234"
        other = "packs/cd/" + "cd" * 32
        assert blobs.put(other, b"x")
        assert sorted(os.listdir(tmp_path / "new" / "packs")) == ["ab", "cd"]
        assert not (tmp_path / "old").exists()

    def test_a_store_whose_disk_is_away_is_not_made_anew(self, stub: StubApi, api: Api, tmp_path: Path) -> None:
        serve(stub, f"file://{tmp_path}/away/store/KEY")
        with pytest.raises(StoreRefused, match="away/store"):
            SignedBlobs(api).put(KEY, b"x")
        assert not (tmp_path / "away").exists()


class TestThroughTheServer:
    URL = f"{PROJECT}/store/blobs/KEY?x=1"
    ROUTE = f"…/store/blobs/{KEY}"

    def test_put(self, stub: StubApi, api: Api, tmp_path: Path) -> None:
        serve(stub, self.URL)
        stub.on(
            f"PUT {self.ROUTE}", Reply(body=msgspec.msgpack.encode(True)), Reply(body=msgspec.msgpack.encode(False))
        )
        (tmp_path / "pack").write_bytes(b"content")
        (tmp_path / "empty").write_bytes(b"")
        assert SignedBlobs(api).put(KEY, tmp_path / "pack")
        assert not SignedBlobs(api).put(KEY, tmp_path / "empty")
        first, second = stub.named(f"PUT {self.ROUTE}")
        assert (first.body, second.body) == (b"content", b"")
        assert (first.headers["x-signed"], first.query) == ("yes", {"x": "1"})

    def test_a_put_that_was_cut_is_sent_again_whole(self, stub: StubApi, api: Api) -> None:
        serve(stub, self.URL)
        stub.on(f"PUT {self.ROUTE}", Reply(close=True), Reply(body=msgspec.msgpack.encode(True)))
        assert SignedBlobs(api).put(KEY, b"content" * 20_000)
        assert [len(call.body) for call in stub.named(f"PUT {self.ROUTE}")] == [140_000, 140_000]

    def test_somebody_else_put_it_first(self, stub: StubApi, api: Api) -> None:
        serve(stub, self.URL)
        stub.on(f"PUT {self.ROUTE}", error(412, "conflict", "it is there"))
        assert not SignedBlobs(api).put(KEY, b"x")

    def test_the_store_refuses(self, stub: StubApi, api: Api) -> None:
        serve(stub, self.URL)
        stub.on(f"PUT {self.ROUTE}", error(507, "storage", "the disk is full"))
        with pytest.raises(StoreRefused, match="the disk is full"):
            SignedBlobs(api).put(KEY, b"x")

    def test_a_part_behind_the_end_of_what_was_cut_short(self, stub: StubApi, api: Api) -> None:
        serve(stub, self.URL)
        stub.on(f"GET {self.ROUTE}", Reply(416, b""))
        assert SignedBlobs(api).get(KEY, offset=2, length=3) == b""

    @pytest.mark.parametrize("heeds_ranges", [True, False])
    def test_a_part(self, stub: StubApi, api: Api, heeds_ranges: bool) -> None:
        serve(stub, self.URL)
        stub.on(f"GET {self.ROUTE}", Reply(206, b"234") if heeds_ranges else Reply(200, b"0123456789"))
        assert SignedBlobs(api).get(KEY, offset=2, length=3) == b"234"
        assert stub.named(f"GET {self.ROUTE}")[0].headers["range"] == "bytes=2-4"

    def test_what_is_not_there(self, stub: StubApi, api: Api) -> None:
        serve(stub, self.URL)
        stub.on(f"GET {self.ROUTE}", error(404, "not-found", "no"))
        with pytest.raises(KeyError):
            SignedBlobs(api).get(KEY)


def test_a_client_has_no_other_rights(api: Api) -> None:
    blobs = SignedBlobs(api)
    with pytest.raises(PermissionError):
        blobs.delete([KEY])
    with pytest.raises(PermissionError):
        blobs.list("packs/")
    with pytest.raises(PermissionError):
        blobs.stat(KEY)


def test_the_catalog(stub: StubApi, api: Api) -> None:
    serve(stub, "").add([])
    catalog = RemoteCatalog(api)
    assert catalog.missing([b"\x01" * 32]) == {b"\x01" * 32}
    located: dict[bytes, ChunkLocation] = dict(catalog.locate([b"\x01" * 32]))
    assert located == {}
