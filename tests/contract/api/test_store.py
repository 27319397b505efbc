"""The store's routes: nothing is named before its bytes are there, and no key leads out of the store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import blake3
import msgspec
import pytest

from dstack.sdk.blobs import SignedRequest
from dstack.server.db.tables import chunks, code_snapshots, packs
from dstack.snapshots.interfaces import ChunkEntry, ChunkLocation, PackIndex, pack_key
from tests.contract.api.test_routes import submission
from tests.support.http import BASE, Asked


def pack(content: bytes) -> tuple[str, PackIndex]:
    """Key and index of a pack that is one chunk."""
    pack_id = blake3.blake3(content).digest()
    entry = ChunkEntry(pack_id, 0, len(content), len(content))
    return pack_key(pack_id), PackIndex(pack_id, len(content), (entry,))


def put(asked: Asked, key: str, content: bytes) -> bool:
    response = asked.client.put(f"{BASE}/store/blobs/{key}", content=content)
    assert response.status_code == 200, response.text
    return msgspec.msgpack.decode(response.content)


def test_missing_add_and_locate(asked: Asked) -> None:
    key, index = pack(b"hello")
    other = b"o" * 32
    assert set(asked.packed("missing", [index.pack_id, other])) == {index.pack_id, other}
    assert put(asked, key, b"hello")
    assert asked.packed("add", [index]) == 1
    assert asked.packed("missing", [index.pack_id, other]) == [other]
    found = asked.packed("locate", [index.pack_id, other])
    location = msgspec.convert(found, dict[bytes, ChunkLocation])
    assert location == {index.pack_id: ChunkLocation(index.pack_id, 0, 5, 5, 0)}
    assert asked.packed("add", [index]) == 1, "again, and nothing changes"
    assert (len(asked.world.rows(packs)), len(asked.world.rows(chunks))) == (1, 1)
    assert asked.packed("missing", []) == []
    assert asked.packed("locate", []) == {}


def test_many_ids_at_once(asked: Asked) -> None:
    ids = [blake3.blake3(str(number).encode()).digest() for number in range(3000)]
    assert len(asked.packed("missing", ids)) == 3000


@pytest.mark.parametrize("stored", [None, b"hell", b"hello!"])
def test_a_pack_that_is_not_there_whole_is_not_added(asked: Asked, stored: bytes | None) -> None:
    key, index = pack(b"hello")
    if stored is not None:
        asked.world.context.blobs.put(key, stored)
    response = asked.client.post(f"{BASE}/store/add", content=msgspec.msgpack.encode([index]))
    error = asked.refused(response, 400, "invalid")
    assert index.pack_id.hex() in error["message"]
    assert asked.world.rows(chunks) == []


def test_one_bad_pack_of_many_adds_none(asked: Asked) -> None:
    key, good = pack(b"good")
    put(asked, key, b"good")
    _, bad = pack(b"bad")
    response = asked.client.post(f"{BASE}/store/add", content=msgspec.msgpack.encode([good, bad]))
    asked.refused(response, 400, "invalid")
    assert asked.world.rows(chunks) == []


OUTSIDE = [
    (b"short", 0, 5, 5),
    (b"c" * 32, -1, 5, 5),
    (b"c" * 32, 3, 5, 5),
    (b"c" * 32, 0, 6, 6),
    (b"c" * 32, 0, 5, -1),
]


def test_a_chunk_that_lies_outside_its_pack_is_refused(asked: Asked) -> None:
    key, index = pack(b"hello")
    put(asked, key, b"hello")
    for entry in OUTSIDE:
        wrong = PackIndex(index.pack_id, 5, (ChunkEntry(*entry),))
        response = asked.client.post(f"{BASE}/store/add", content=msgspec.msgpack.encode([wrong]))
        asked.refused(response, 400, "invalid")
    assert asked.world.rows(chunks) == []


def test_bytes_that_are_not_what_their_key_says_are_refused(asked: Asked) -> None:
    key, _ = pack(b"hello")
    response = asked.client.put(f"{BASE}/store/blobs/{key}", content=b"other")
    asked.refused(response, 400, "invalid")
    asked.refused(asked.client.get(f"{BASE}/store/blobs/{key}"), 404, "not-found")


def test_blobs_are_written_once_and_read_in_parts(asked: Asked) -> None:
    key, _ = pack(b"0123456789")
    assert put(asked, key, b"0123456789")
    assert not put(asked, key, b"0123456789")
    url = f"{BASE}/store/blobs/{key}"
    assert asked.client.get(url).content == b"0123456789"
    for text, status, content in (
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=0-0", 206, b"0"),
        ("lines=1-2", 200, b"0123456789"),
    ):
        response = asked.client.get(url, headers={"range": text})
        assert (response.status_code, response.content) == (status, content), text
    assert asked.client.get(url, headers={"range": "bytes=10-"}).status_code == 416


BAD_KEYS = [
    "../../etc/passwd",
    "packs/ab/../../../etc/passwd",
    "packs/ab/" + "AB" * 32,
    "packs/ab/" + "ab" * 31,
    "packs/ab/" + "ab" * 32 + "/..",
    "packs/cd/" + "ab" * 32,
    "/etc/passwd",
    "",
    "packs/ab/" + "a" * 63 + "\0",
    "dstack.db",
    "packs//" + "ab" * 32,
]


def test_keys_that_try_to_escape_are_refused(asked: Asked) -> None:
    for key in BAD_KEYS:
        for method in ("GET", "PUT"):
            body = msgspec.msgpack.encode({"method": method, "keys": [key]})
            asked.refused(asked.client.post(f"{BASE}/store/sign", content=body), 400, "invalid")
        for quoted in (key, key.replace("/", "%2f").replace(".", "%2e")):
            quoted = quoted.replace("\n", "%0a").replace("\0", "%00")
            for response in (
                asked.client.get(f"{BASE}/store/blobs/{quoted}"),
                asked.client.put(f"{BASE}/store/blobs/{quoted}", content=b"x"),
            ):
                assert response.status_code in (400, 404, 405), (quoted, response.status_code)
    store = Path(asked.world.settings.store)
    assert [path.name for path in store.rglob("*") if path.is_file()] == ["store.json"], "the mark of the store alone"


def test_sign_hands_out_paths_on_this_host(asked: Asked) -> None:
    key, _ = pack(b"hello")
    for method in ("GET", "PUT"):
        (answer,) = asked.packed("sign", {"method": method, "keys": [key]})
        signed = msgspec.convert(answer, SignedRequest)
        url = urlsplit(signed.url)
        assert (signed.method, url.scheme) == (method, "file")
        assert Path(unquote(url.path)) == asked.world.settings.store / key
        assert signed.expires > asked.world.clock.now()
    assert asked.packed("sign", {"method": "GET", "keys": []}) == []
    for method in ("DELETE", "POST", "get"):
        body = msgspec.msgpack.encode({"method": method, "keys": [key]})
        asked.refused(asked.client.post(f"{BASE}/store/sign", content=body), 400, "invalid")


def test_code_that_is_stored_can_be_submitted(asked: Asked) -> None:
    key, index = pack(b"a manifest")
    code = {"manifest_id": index.pack_id.hex(), "content_id": "cd" * 32, "files": 1, "size": 2}
    asked.refused(asked.client.post(f"{BASE}/runs", json=submission(code=code)), 409, "code-missing")
    put(asked, key, b"a manifest")
    asked.packed("add", [index])
    for _ in range(2):
        asked.post("runs", submission(code=code), 201)
    assert len(asked.world.rows(code_snapshots)) == 1


def test_a_body_without_an_end_is_cut_short(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    from dstack.server.api import store

    monkeypatch.setattr(store, "MAX_PACK", 1000)
    monkeypatch.setattr(store, "_SLACK", 0)
    content = b"x" * 1001
    key, _ = pack(content)
    asked.refused(asked.client.put(f"{BASE}/store/blobs/{key}", content=content), 413, "too-large")


@pytest.mark.parametrize("path", ["missing", "locate", "add", "sign"])
def test_bodies_that_are_none(asked: Asked, path: str) -> None:
    for content in (b"", b"\xc1", b"\x01", b"\xa1x", b"\x91\x01", b"\x80"):
        asked.refused(asked.client.post(f"{BASE}/store/{path}", content=content), 400, "invalid")
