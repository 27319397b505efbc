"""Encryption at rest: secrets and callers' values are stored sealed, with a key that is not in the database.

The key is `DSTACK_SERVER_SECRETS_KEY`, else the file `server/secrets.key` of the home: lines of 64 hexadecimal digits
(or 32 bytes in base64), of which the first seals and all open, so that a key can be changed by putting a new one
before the old. The file is made once, when the first value is sealed, and never written again.

A sealed value is `01`, four bytes that tell which key it needs, a nonce of 12 bytes, and AES-256-GCM's text and tag.
What it is bound to (project, repository, name) is authenticated with it: rows that were swapped do not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dstack.server.services.errors import ServiceError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "DSTACK_SERVER_SECRETS_KEY"
_FORMAT = b"\x01"
_ID, _NONCE, _KEY = 4, 12, 32
_HEADER = """\
# The key of this dstack home's secrets. Without it they cannot be read: keep a copy apart from the database,
# and show it to nobody.
"""


class SealingError(ServiceError):
    """A value cannot be sealed or opened. Nothing that is stored was changed."""

    code = "secrets-key"
    status = 503


class KeyMissing(SealingError):
    """There is no key at all."""


class Sealer:
    """Seals and opens; safe from any thread. `given` is the variable's text and wins over the file at `path`."""

    def __init__(self, path: Path, given: str = "") -> None:
        self._path = path
        self._given = given
        self._where = VARIABLE if given else str(path)
        self._lock = threading.Lock()
        self._keys: dict[bytes, AESGCM] = {}
        """By id; the first seals."""

    def seal(self, value: bytes, bound: bytes) -> bytes:
        """`value`, to be opened with the same `bound` only. Raises KeyMissing or SealingError."""
        key_id, key = next(iter(self._loaded().items()))
        nonce = secrets.token_bytes(_NONCE)
        return _FORMAT + key_id + nonce + key.encrypt(nonce, value, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """The value. Raises SealingError where its key is not here, or it is not what was sealed for `bound`."""
        from cryptography.exceptions import InvalidTag

        key_id, nonce, text = sealed[1 : 1 + _ID], sealed[1 + _ID : 1 + _ID + _NONCE], sealed[1 + _ID + _NONCE :]
        key = self._loaded().get(key_id)
        if key is None:  # the right file may have been put back meanwhile
            key = self._loaded(again=True).get(key_id)
        if key is None or sealed[:1] != _FORMAT:
            raise SealingError(
                f"the secrets were sealed with another key than that of {self._where}",
                hint="put the key back that they were sealed with; where it is lost, set each secret anew",
            )
        try:
            return key.decrypt(nonce, text, bound)
        except (InvalidTag, ValueError):
            raise SealingError("a sealed value in the database is damaged, or belongs to another secret") from None

    def check(self) -> None:
        """Raises KeyMissing, or SealingError for a key that cannot be used."""
        self._loaded()

    def create(self) -> None:
        """Make the key file, unless there is one. The caller has seen to it that nothing is sealed yet."""
        if self._given:
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, f"{_HEADER}{secrets.token_hex(_KEY)}\n".encode())
                os.fsync(fd)  # before anything is sealed with it
            finally:
                os.close(fd)
            try:
                os.link(part, self._path)  # unlike a rename it never replaces a key
            except FileExistsError:
                pass  # another request was first
            _sync_folder(self._path.parent)
        except OSError as error:
            raise SealingError(f"the key of the secrets cannot be written to {self._path}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def _loaded(self, *, again: bool = False) -> Mapping[bytes, AESGCM]:
        with self._lock:
            if again or not self._keys:
                self._keys = self._read()
            return self._keys

    def _read(self) -> dict[bytes, AESGCM]:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # by the first value: 9 MB, 11 ms

        text = self._given.replace(",", "\n") or self._text_of_file()
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        raw = [_parse(line, f"{self._where}, line {number}") for number, line in lines if line and line[0] != "#"]
        if not raw:
            raise SealingError(f"{self._where} holds no key", hint=_KEY_HINT)
        return {_id_of(key): AESGCM(key) for key in raw}

    def _text_of_file(self) -> str:
        try:
            with open(self._path, encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise SealingError(
                        f"others can read the key of the secrets, {self._path}", hint=f"chmod 600 {self._path}"
                    )
                return file.read()
        except FileNotFoundError:
            raise KeyMissing(
                f"the key of the secrets, {self._path}, is missing",
                hint="put the file back from a copy; where it is lost, delete the secrets and set them anew",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SealingError(f"the key of the secrets, {self._path}, cannot be read: {why}") from error


_KEY_HINT = "a key is 64 hexadecimal digits, as `openssl rand -hex 32` prints them"


def _parse(line: str, where: str) -> bytes:
    """The 32 bytes of a key. An error never shows the line."""
    try:
        key = bytes.fromhex(line) if len(line) == 2 * _KEY else _from_base64(line)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY:
        raise SealingError(f"{where}: this is no key", hint=_KEY_HINT)
    return key


def _from_base64(text: str) -> bytes:
    """In either alphabet, with or without padding."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _id_of(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_ID, person=b"dstack-key-id").digest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
