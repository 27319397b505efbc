"""All the forms in which a secret value may show up in a log: as it is, encoded, escaped, and line by line."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MIN_LINE = 6
"""Lines of a multi-line value shorter than this are not masked: braces and the like are everywhere."""
_BRACES = b"{}[]()<>,;: \t\r\"'"
_BASE64_SKIP = (0, 2, 3)
"""Characters at the start that depend on what precedes the value, by its offset modulo 3."""


def forms(values: Iterable[bytes]) -> frozenset[bytes]:
    """Every byte string to be masked for these secret values. Values of white space only are left out."""
    return frozenset(form for value in values for piece in _pieces(value) for form in _encodings(piece))


def _pieces(value: bytes) -> Iterator[bytes]:
    """The whole value, also without its last line end, and each line that says something."""
    if not value.strip():
        return
    yield value
    stripped = value.strip(b"\r\n")
    yield stripped
    lines = stripped.splitlines()
    if len(lines) > 1:
        yield from (line for line in (each.strip() for each in lines) if len(line.strip(_BRACES)) >= MIN_LINE)


def _encodings(piece: bytes) -> Iterator[bytes]:
    yield piece
    if len(piece) < MIN_LINE:
        return  # an encoded short value is found everywhere by chance
    yield from _base64(piece)
    text = piece.decode("utf-8", "surrogateescape")
    for escaped in _escapes(text, piece):
        yield escaped.encode("utf-8", "surrogateescape")


def _base64(piece: bytes) -> Iterator[bytes]:
    """The characters that are the value's alone, for each of the three positions it may have in the encoded stream."""
    for shift, skip in enumerate(_BASE64_SKIP):
        encoded = base64.b64encode(b"\0" * shift + piece)
        alone = encoded[skip : (shift + len(piece)) * 8 // 6]
        yield alone
        yield alone.translate(bytes.maketrans(b"+/", b"-_"))


def _escapes(text: str, piece: bytes) -> Iterator[str]:
    for safe in ("", "/"):
        encoded = quote(piece, safe=safe)
        yield encoded
        yield _lower_percent(encoded)
    plus = quote_plus(piece)
    yield plus
    yield _lower_percent(plus)
    for ascii_only in (True, False):
        quoted = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield quoted
        yield quoted.replace("/", "\\/")
        yield json.dumps(quoted, ensure_ascii=ascii_only)[1:-1]  # JSON within a JSON string
    yield repr(text)[1:-1]
    yield repr(piece)[2:-1]
    yield shlex.quote(text)
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")
    yield "".join(f"\\{char}" if char in _SHELL else char for char in text)  # bash's printf %q
    yield "".join(f"\\{char}" if char in '"$`\\!' else char for char in text)  # within double quotes
    yield text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")  # $'…', set -x
    yield text.replace("\n", "\r\n")
    yield text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


_SHELL = frozenset(" \t!\"#$&'()*,;<>?[\\]^`{|}~")


def _lower_percent(encoded: str) -> str:
    """`%2F` → `%2f`: both are in use."""
    head, *rest = encoded.split("%")
    return head + "".join("%" + part[:2].lower() + part[2:] for part in rest)
