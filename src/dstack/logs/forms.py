"""All the forms in which a secret value may show up in a log: as it is, encoded, escaped, line by line.

Encodings that programs break into lines of any width (base64, hex) are told by windows: every stretch of `WINDOW`
characters is a form of its own, and so is every stretch that a line break cuts near an end of the value. Forms overlap,
and a mask covers what any of them covers.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MIN_VALUE = 4
"""Bytes of the shortest value that is masked: a shorter one is found everywhere by chance."""
MIN_ENCODED = 6
"""Bytes of the shortest value that is masked in other forms than its own, and of the shortest line of a longer one."""
WINDOW = 12
"""Characters of an encoded value that are enough to know it by: nine bytes in base64, six in hex."""

_BRACES = b"{}[]()<>,;: \t\r\"'"
_BASE64_SKIP = (0, 2, 3)
"""Characters at the start that depend on what precedes the value, by its offset modulo 3."""
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_URL_SAFE_SETS = ("", "/", "!*'()", ";,/?:@&=+$!*'()#")
"""What is left as it is in URLs: by nobody, by Python, by encodeURIComponent, by encodeURI."""
_BREAKS = (b"\n", b"\r\n", b"\\n")
"""Line breaks within an encoded value; the last one within JSON."""
_LINE_ENDS = re.compile(rb"\r\n|\n|\r|\\r\\n|\\n|\\r")
"""Also the escaped ones of a key that was put on one line."""
_FENCE = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]+-----")


def forms(values: Iterable[bytes]) -> frozenset[bytes]:
    """Every byte string to be masked for these secret values. Values that are too short or blank are left out."""
    return frozenset(form for value in values for piece in _pieces(value) for form in _encodings(piece))


def is_maskable(value: bytes) -> bool:
    """Whether a secret of this value is masked at all."""
    return len(value.strip()) >= MIN_VALUE


def _pieces(value: bytes) -> Iterator[bytes]:
    """The whole value, also without what is blank around it, and each line that says something."""
    if not is_maskable(value):
        return
    yield from (value, value.strip(b"\r\n"), value.strip())
    lines = [line.strip() for line in _LINE_ENDS.split(value.strip())]
    if len(lines) > 1:
        yield from (line for line in lines if _says_something(line))


def _says_something(line: bytes) -> bool:
    """Not a brace, a short word or the fence of a PEM block: those are everywhere."""
    return len(line.strip(_BRACES)) >= MIN_ENCODED and _FENCE.fullmatch(line) is None


def _encodings(piece: bytes) -> Iterator[bytes]:
    yield piece
    if len(piece) < MIN_ENCODED:
        return
    yield from _base64(piece)
    yield from _hex(piece)
    yield from (escaped.encode("utf-8", "surrogateescape") for escaped in _escaped(piece))


def _base64(piece: bytes) -> Iterator[bytes]:
    """The characters that are the value's alone, for each of the three positions it may have in the encoded stream."""
    for shift, skip in enumerate(_BASE64_SKIP):
        encoded = base64.b64encode(b"\0" * shift + piece)
        alone = encoded[skip : (shift + len(piece)) * 8 // 6]
        yield from _wrapped(alone)
        yield from _wrapped(alone.translate(_URL_SAFE))
    for whole in (piece, piece + b"\n"):  # as `base64` and `echo … | base64` print it, to the last character
        encoded = base64.b64encode(whole)
        for alphabet in (encoded, encoded.translate(_URL_SAFE)):
            tail = alphabet.rstrip(b"=")
            yield from (alphabet, tail, alphabet[-WINDOW:], tail[-WINDOW:])


def _hex(piece: bytes) -> Iterator[bytes]:
    plain = piece.hex()
    for digits in (plain, plain.upper()):
        pairs = [digits[at : at + 2] for at in range(0, len(digits), 2)]
        yield from _wrapped(digits.encode(), step=2)
        yield from (separator.join(pairs).encode() for separator in (" ", ":", "-"))
        yield from ("".join(prefix + pair for pair in pairs).encode() for prefix in ("\\x", "%"))


def _wrapped(encoded: bytes, step: int = 1) -> Iterator[bytes]:
    """`encoded`, its windows, and what a line break near one of its ends leaves of them.

    `step` characters stay together.
    """
    length = len(encoded)
    if length <= WINDOW:
        yield encoded
    for begin in range(0, length - WINDOW + 1, step):
        yield encoded[begin : begin + WINDOW]
    near = {*range(step, min(WINDOW, length), step), *range(max(step, length - WINDOW + step), length, step)}
    for at in near:
        before, after = encoded[max(0, at - WINDOW) : at], encoded[at : at + WINDOW]
        yield from (before + line_break + after for line_break in _BREAKS)


def _escaped(piece: bytes) -> set[str]:
    """Escapes of URLs, JSON, shells, Python, HTML, and those of one within another."""
    text = piece.decode("utf-8", "surrogateescape")
    once = {*_of_urls(piece), *_of_strings(text), *_of_shells(text), *_of_markup(text)}
    once.update((repr(piece)[2:-1], text.replace("\n", "\r\n")))
    # A message within JSON within a log record: two levels are common.
    twice = {again for escaped in {text, *once} for again in _of_strings(escaped)}
    return {escaped for escaped in once | twice if escaped != text}


def _of_urls(piece: bytes) -> Iterator[str]:
    for encoded in (*(quote(piece, safe=safe) for safe in _URL_SAFE_SETS), quote_plus(piece)):
        yield encoded
        yield re.sub("%..", lambda found: found[0].lower(), encoded)  # `%2F`, `%2f`: both are in use
        yield encoded.replace("%", "%25")


def _of_strings(text: str) -> Iterator[str]:
    """String literals of JSON, JavaScript and Python without their quotes."""
    for ascii_only in (True, False):
        quoted = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield quoted
        yield re.sub(r"\\u[0-9a-f]{4}", lambda found: found[0][:2] + found[0][2:].upper(), quoted)
        yield quoted.replace("/", "\\/")
        # Go, Rails and others keep HTML out of JSON.
        yield quoted.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        yield quoted.replace("&", "\\u0026").replace("<", "\\u003C").replace(">", "\\u003E").replace("'", "\\u0027")
    for literal in (repr(text), ascii(text)):
        yield literal[1:-1]
    yield text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def _of_shells(text: str) -> Iterator[str]:
    yield shlex.quote(text)
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")
    yield "".join(f"\\{char}" if char in _SHELL else char for char in text)  # bash's printf %q
    yield "".join(f"\\{char}" if char in '"$`\\!' else char for char in text)  # within double quotes
    yield "".join(f"\\{char}" if char in '"$`\\' else char for char in text)
    # $'…', as `set -x` and `printf %q` write what does not print
    dollar = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    yield dollar
    yield "".join(char if char.isascii() else _octal(char) for char in dollar)


def _of_markup(text: str) -> Iterator[str]:
    partly = html.escape(text, quote=False)
    yield partly
    yield partly.replace('"', "&quot;")
    for quot, apostrophe in (("&quot;", "&#x27;"), ("&#34;", "&#39;"), ("&quot;", "&#39;"), ("&quot;", "&apos;")):
        yield partly.replace('"', quot).replace("'", apostrophe)


def _octal(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


_SHELL = frozenset(" \t!\"#$&'()*,;<>?[\\]^`{|}~")
