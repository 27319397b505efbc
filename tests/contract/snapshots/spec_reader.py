"""A reader of snapshots, and its chunker, written from docs/formats/snapshots.md and from nothing else.

It shares no line with dstack. Slow and strict: whatever the page does not allow is an AssertionError.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

Blobs = dict[str, bytes]
PAGE = Path(__file__).parents[3] / "docs" / "formats" / "snapshots.md"


def b3(data: bytes) -> bytes:
    return blake3(data).digest()


class Msgpack:
    """A decoder of the canonical subset of section 1; refuses any other encoding of a value."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def whole(self) -> Any:
        value = self.value()
        assert self.at == len(self.data), "bytes after the value"
        return value

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        assert len(part) == count, "cut short"
        self.at += count
        return part

    def number(self, code: int, first: int, shortest: int) -> int:
        width = 1 << (code - first)
        value = int.from_bytes(self.take(width), "big")
        assert value >= (shortest if width == 1 else 1 << (4 * width)), "not the shortest form"
        return value

    def value(self) -> Any:
        code = self.take(1)[0]
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if 0x90 <= code <= 0x9F:
            return [self.value() for _ in range(code & 0x0F)]
        if 0xA0 <= code <= 0xBF:
            return self.take(code & 0x1F).decode()
        if 0xC4 <= code <= 0xC6:
            return self.take(self.number(code, 0xC4, 0))
        if 0xCC <= code <= 0xCF:
            return self.number(code, 0xCC, 128)
        if 0xD0 <= code <= 0xD3:
            return self.negative(1 << (code - 0xD0))
        if code in (0xDC, 0xDD):
            width = 2 if code == 0xDC else 4
            count = int.from_bytes(self.take(width), "big")
            assert count >= (16 if width == 2 else 1 << 16), "not the shortest form"
            return [self.value() for _ in range(count)]
        if code == 0xD9:
            return self.take(self.number(code, 0xD9, 32)).decode()
        raise AssertionError(f"type {code:02x} is not used")

    def negative(self, width: int) -> int:
        value = int.from_bytes(self.take(width), "big", signed=True)
        assert value < (-32 if width == 1 else -(1 << (4 * width - 1))), "not the shortest form"
        return value


class Store:
    """Section 2: every chunk that lies in some pack."""

    def __init__(self, blobs: Blobs) -> None:
        self.chunks: dict[bytes, bytes] = {}
        for key, pack in blobs.items():
            pack_id = b3(pack)
            assert key == f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"
            assert len(pack) <= 67_108_864
            self.read(pack)

    def read(self, pack: bytes) -> None:
        assert pack[:8] == b"DSTACKp\x01"
        assert pack[-8:] == b"DSTACKx\x01"
        (length,) = struct.unpack(">Q", pack[-16:-8])
        index = pack[-48 - length : -48]
        assert b3(index) == pack[-48:-16]
        end = 8
        for chunk_id, offset, stored_length, raw_length, codec in Msgpack(index).whole():
            assert offset == end
            assert stored_length >= 1
            end += stored_length
            raw = pack[offset:end]
            if codec == 1:
                import zstandard

                raw = zstandard.ZstdDecompressor().decompress(raw, max_output_size=raw_length)
            else:
                assert codec == 0
            assert len(raw) == raw_length
            assert b3(raw) == chunk_id
            self.chunks[chunk_id] = raw
        assert end == len(pack) - 48 - length

    def object(self, letter: str, object_id: bytes) -> Any:
        data = self.chunks[object_id]
        assert data[:8] == b"DSTACK" + letter.encode() + b"\x01"
        return Msgpack(data[8:]).whole()

    def directory(self, tree_id: bytes) -> list[Any]:
        pages, entries = self.object("d", tree_id)
        assert not (pages and entries)
        for page in pages:
            below, more = self.object("d", page)
            assert not below
            entries += more
        names = [entry[1] for entry in entries]
        assert names == sorted(set(names))
        for name in names:
            assert 1 <= len(name) <= 255
            assert name not in (b".", b"..")
            assert not set(name) & set(b"/\0")
        return entries

    def content(self, entry: list[Any]) -> bytes:
        """Of a file's entry."""
        _, _, _, _, size, digest, chunks, holes = entry
        if chunks:
            parts = list(struct.iter_unpack(">32sI", chunks))
            data = b"".join(self.chunks[chunk_id] for chunk_id, _ in parts)
            assert [len(self.chunks[chunk_id]) for chunk_id, _ in parts] == [length for _, length in parts]
        else:
            data = self.chunks[digest] if size else b""
        assert len(data) == size
        assert b3(data) == digest
        for offset, length in zip(holes[::2], holes[1::2], strict=True):
            assert not any(data[offset : offset + length])
        return data


def content_id(entries: list[Any]) -> bytes:
    rows = [[entry[1], entry[0], entry[2], entry[{0: 5, 1: 4, 2: 5}[entry[0]]]] for entry in entries]
    return b3(b"DSTACKc\x01" + pack(rows))


def pack(value: Any) -> bytes:
    """Canonical msgpack of what content ids need."""
    if isinstance(value, list):
        head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
        return head + b"".join(pack(element) for element in value)
    if isinstance(value, bytes):
        head = b"\xc4" + bytes([len(value)]) if len(value) < 256 else b"\xc5" + struct.pack(">H", len(value))
        return head + value
    assert isinstance(value, int)
    if value < 128:
        return bytes([value])
    return b"\xcc" + bytes([value]) if value < 256 else b"\xcd" + struct.pack(">H", value)


def restore(blobs: Blobs, manifest_id: bytes, target: Path) -> None:
    """Section 6, into a folder that is not there yet."""
    store = Store(blobs)
    tree_id, content, _, _, files, size, chunker, links = store.object("r", manifest_id)
    assert chunker == ["fastcdc-2020", 262144, 524288, 2097152, 1, 0]
    folders: list[tuple[Path, int, int]] = []
    assert (files, size) == _directory(store, tree_id, content, target, folders)
    for group in store.object("l", links) if links else []:
        assert group == sorted(set(group))
        assert len(group) >= 2
        present = [bytes(target) + b"/" + path for path in group if os.path.lexists(bytes(target) + b"/" + path)]
        for path in present[1:]:
            os.unlink(path)
            os.link(present[0], path)
    for folder, mode, mtime in folders:  # last, for what is made in a folder changes its time and needs its rights
        folder.chmod(mode)
        if mtime:
            os.utime(folder, ns=(mtime, mtime))


def _directory(
    store: Store, tree_id: bytes, content: bytes, target: Path, made: list[tuple[Path, int, int]]
) -> tuple[int, int]:
    entries = store.directory(tree_id)
    assert content_id(entries) == content
    target.mkdir()
    total_files = total_size = 0
    for entry in entries:
        kind, name, mode, mtime = entry[:4]
        path = Path(os.fsdecode(bytes(target) + b"/" + name))
        files, size = 1, 0
        if kind == 0:
            path.write_bytes(store.content(entry))
            size = entry[4]
        elif kind == 1:
            assert mode == 0o777
            os.symlink(entry[4], bytes(path))
        else:
            assert kind == 2
            files, size = _directory(store, entry[4], entry[5], path, made)
            assert (files, size) == (entry[6], entry[7])
            made.append((path, mode, mtime))
        if kind == 0:
            path.chmod(mode)
        if kind != 2:
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        total_files, total_size = total_files + files, total_size + size
    return total_files, total_size


def gear() -> list[int]:
    """The table, read out of the page."""
    rows = re.findall(r"^ {4}[0-9a-f]{2}((?:  [0-9a-f]{16}){4})$", PAGE.read_text(), re.MULTILINE)
    table = [int(value, 16) for row in rows for value in row.split()]
    assert len(table) == 256
    return table


def cut(data: bytes) -> Iterator[int]:
    """Section 5: the lengths of the chunks of a file."""
    table, done = gear(), 0
    while done < len(data):
        length = _next(table, data[done : done + 2097152])
        yield length
        done += length


def _next(table: list[int], data: bytes) -> int:
    n, bits = len(data), (1 << 64) - 1
    if n <= 262144:
        return n
    middle = min(524288, n)
    h = 0
    for i in range(262144, n - n % 2, 2):
        mask = 0x0000D91747537000 if i < middle - middle % 2 else 0x0000D90707537000
        h = ((h << 2) + (table[data[i]] << 1)) & bits
        if not h & (mask << 1):
            return i
        h = (h + table[data[i + 1]]) & bits
        if not h & mask:
            return i + 1
    return n
