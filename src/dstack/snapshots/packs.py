"""Packs: up to 64 MiB of chunks in one immutable blob, with an index in its tail.

    header   8 bytes   "DSTACKp" 0x01
    chunks   the stored bytes of each chunk, one after the other
    index    msgpack: [[chunk id, offset, stored length, raw length, codec], …]
    footer  48 bytes   BLAKE3 of the index, its length (u64, big-endian), "DSTACKx" 0x01

A pack is named by the BLAKE3 of all its bytes. See docs/formats/snapshots.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from dstack.sdk.blobs import BlobStore, Buffer
from dstack.snapshots.chunking import ID_LENGTH, digest
from dstack.snapshots.errors import BadPack, CorruptChunk, SnapshotError
from dstack.snapshots.interfaces import ChunkEntry, ChunkLocation, PackIndex, pack_key

HEADER: Final = b"DSTACKp\x01"
TAIL: Final = b"DSTACKx\x01"
FOOTER: Final = struct.Struct(">32sQ8s")
MAX_PACK: Final = 64 * 1024 * 1024
MAX_CHUNK: Final = MAX_PACK - 1024
"""Bytes; leaves room for the header, an index of one and the footer."""
CODEC_STORED: Final = 0
CODEC_ZSTD: Final = 1

_FIRST_READ = 64 * 1024
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[ChunkEntry, ...])


class PackBuilder:
    """One pack being filled."""

    def __init__(self) -> None:
        self._data = bytearray(HEADER)
        self._entries: list[ChunkEntry] = []

    def __len__(self) -> int:
        """Bytes so far, without index and footer."""
        return len(self._data)

    @property
    def empty(self) -> bool:
        return not self._entries

    @property
    def chunks(self) -> int:
        """How many it holds."""
        return len(self._entries)

    def add(self, chunk_id: bytes, raw: Buffer) -> None:
        """Store a chunk as it is."""
        self.add_stored(chunk_id, raw, len(raw), CODEC_STORED)

    def add_stored(self, chunk_id: bytes, stored: Buffer, raw_length: int, codec: int) -> None:
        """Store a chunk of `raw_length` bytes in the form that `codec` gave it."""
        if max(len(stored), raw_length) > MAX_CHUNK:
            raise SnapshotError(f"an object of {raw_length} bytes does not fit into a pack of {MAX_PACK} bytes")
        self._entries.append(ChunkEntry(chunk_id, len(self._data), len(stored), raw_length, codec))
        self._data += stored

    def seal(self) -> tuple[bytearray, PackIndex]:
        """The finished pack and its index. The builder is spent."""
        index = _encoder.encode(self._entries)
        self._data += index
        self._data += FOOTER.pack(digest(index), len(index), TAIL)
        return self._data, PackIndex(digest(self._data), len(self._data), tuple(self._entries))


def decode_chunk(chunk_id: bytes, location: ChunkLocation, stored: memoryview) -> bytes | memoryview:
    """The raw bytes of a chunk, proven by its id. Raises CorruptChunk."""
    if len(stored) != location.stored_length:
        detail = f"{len(stored)} of its {location.stored_length} stored bytes are there"
        raise CorruptChunk(chunk_id, location.pack_id, detail)
    raw = _decompress(chunk_id, location, stored) if location.codec else stored
    if len(raw) != location.raw_length or digest(raw) != chunk_id:
        raise CorruptChunk(chunk_id, location.pack_id, "its bytes do not have its BLAKE3")
    return raw


def repacked(
    chunks: Mapping[bytes, ChunkLocation], data: memoryview, otherwise: bytes = b""
) -> tuple[bytearray, PackIndex]:
    """A pack of chunks that lie in `data`, as they are; the one called `otherwise` in another form."""
    builder = PackBuilder()
    for chunk_id, place in sorted(chunks.items(), key=lambda item: item[1].offset):
        stored = data[place.offset : place.offset + place.stored_length]
        if chunk_id != otherwise:
            builder.add_stored(chunk_id, stored, place.raw_length, place.codec)
        elif place.codec == CODEC_STORED:
            import zstandard  # this happens once in a pack's life, if ever

            builder.add_stored(chunk_id, zstandard.compress(stored), place.raw_length, CODEC_ZSTD)
        else:
            builder.add(chunk_id, decode_chunk(chunk_id, place, stored))
    return builder.seal()


def read_index(blobs: BlobStore, key: str, size: int) -> PackIndex:
    """The index of a stored pack, from its tail alone. `size` is the blob's. Raises BadPack, KeyError.

    The name is believed here: only `checking.check_pack`, which reads everything, proves it.
    """
    tail = blobs.get(key, offset=max(0, size - _FIRST_READ))
    _, length, _ = _footer(key, tail)
    if length + FOOTER.size > size - len(HEADER):
        raise BadPack(key, "its index is said to be longer than the pack")
    if length + FOOTER.size > len(tail):
        tail = blobs.get(key, offset=size - length - FOOTER.size)
    return PackIndex(id_of(key), size, parse_index(key, tail, size))


def _footer(key: str, tail: Buffer) -> tuple[bytes, int, bytes]:
    if len(tail) < FOOTER.size:
        raise BadPack(key, f"it is {len(tail)} bytes short of a pack")
    found: tuple[bytes, int, bytes] = FOOTER.unpack(tail[-FOOTER.size :])
    if found[2] != TAIL:
        raise BadPack(key, "it does not end like a pack of version 1")
    return found


def parse_index(key: str, tail: Buffer, size: int) -> tuple[ChunkEntry, ...]:
    """The index at the end of `tail`, the last bytes of a pack of `size` bytes. Raises BadPack."""
    expected, length, _ = _footer(key, tail)
    index = tail[max(0, len(tail) - FOOTER.size - length) : len(tail) - FOOTER.size]
    if digest(index) != expected:
        raise BadPack(key, "its index is damaged")
    try:
        entries = _decoder.decode(index)
    except msgspec.MsgspecError as error:
        raise BadPack(key, f"its index is not understood ({error})") from error
    end = len(HEADER)
    for entry in entries:
        if len(entry.chunk_id) != ID_LENGTH or entry.offset != end or entry.stored_length < 1:
            raise BadPack(key, "its index does not describe its bytes")
        end += entry.stored_length
    if end != size - FOOTER.size - length:
        raise BadPack(key, "its index does not describe its bytes")
    return entries


def _decompress(chunk_id: bytes, location: ChunkLocation, stored: memoryview) -> bytes:
    if location.codec != CODEC_ZSTD:
        raise CorruptChunk(chunk_id, location.pack_id, f"codec {location.codec} is not known to this version of dstack")
    import zstandard  # loaded by whom meets a compressed chunk: most code has none

    if location.raw_length > MAX_PACK:
        raise CorruptChunk(chunk_id, location.pack_id, "its raw length is beyond what a chunk may have")
    try:
        # What a frame says of itself outranks `max_output_size`: a few bytes could ask for gigabytes.
        if zstandard.frame_content_size(stored) not in (-1, location.raw_length):
            raise CorruptChunk(chunk_id, location.pack_id, "zstd would make more or less of it than its index says")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=location.raw_length)
    except zstandard.ZstdError as error:
        raise CorruptChunk(chunk_id, location.pack_id, f"zstd says: {error}") from error


def id_of(key: str) -> bytes:
    """The id of the pack whose blob has this key. Raises BadPack where it can be none's."""
    name = key.rpartition("/")[2]
    try:
        pack_id = bytes.fromhex(name)
    except ValueError:
        pack_id = b""
    if len(pack_id) != ID_LENGTH or key != pack_key(pack_id):
        raise BadPack(key, "its name is not that of a pack")
    return pack_id
