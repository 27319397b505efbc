"""However a stream is cut, and however often its shipper restarts, what comes out is the masked whole."""

from __future__ import annotations

import base64
import json
import shlex
from itertools import pairwise
from urllib.parse import quote

from hypothesis import example, given
from hypothesis import strategies as st

from dstack.logs.forms import forms
from dstack.logs.masking import MASK, Masker

# Two letters, so that secrets overlap with themselves and each other all the time.
SHORT = st.lists(st.text("ab", min_size=1, max_size=5).map(str.encode), min_size=1, max_size=3)
LONG = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=6, max_size=40)


def mask_whole(data: bytes, values: list[bytes]) -> bytes:
    """The plain definition: every byte of every occurrence is covered, overlapping occurrences make one mask."""
    spans = sorted(
        (at, at + len(form)) for form in forms(values) for at in range(len(data)) if data.startswith(form, at)
    )
    merged: list[list[int]] = []
    for begin, end in spans:
        if merged and begin < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    result, position = b"", 0
    for begin, end in merged:
        result += data[position:begin] + MASK
        position = end
    return result + data[position:]


@st.composite
def streams(draw: st.DrawFn, values: list[bytes]) -> bytes:
    """Bytes made of the values, their beginnings and ends, and other things."""
    pieces = [value[a:b] for value in values for a in (0, 1) for b in (None, -1)]
    return b"".join(draw(st.lists(st.sampled_from([*pieces, b"a", b"b", b"x", b"\n"]), max_size=25)))


@given(data=st.data(), values=SHORT)
@example(data=None, values=[b"aaa"])
def test_cut_anywhere_the_output_is_that_of_the_whole(data: st.DataObject | None, values: list[bytes]) -> None:
    stream = b"aaaaaxaaaa" if data is None else data.draw(streams(values))
    cuts = [3, 4] if data is None else sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    masker = Masker(values)
    output = b"".join(masker.feed(stream[a:b]) for a, b in pairwise([0, *cuts, len(stream)])) + masker.flush()
    assert output == mask_whole(stream, values)
    assert all(value not in output for value in values)


@given(data=st.data(), values=SHORT)
def test_a_restart_that_reads_the_held_bytes_again_continues_the_output(
    data: st.DataObject, values: list[bytes]
) -> None:
    stream = data.draw(streams(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), min_size=1, max_size=6)))
    output, masker, read = b"", Masker(values), 0
    for cut in (*cuts, len(stream)):
        output += masker.feed(stream[read:cut])
        read = cut - masker.held
        masker = Masker(values, covered=masker.covered)
    output += masker.feed(stream[read:]) + masker.flush()
    assert output == mask_whole(stream, values)


@given(data=st.data(), values=SHORT)
def test_what_is_held_back_is_bounded(data: st.DataObject, values: list[bytes]) -> None:
    masker = Masker(values)
    for byte in data.draw(streams(values)):
        masker.feed(bytes([byte]))
        assert masker.held < max(masker.longest, 1)


@given(text=LONG, before=st.binary(max_size=9), after=st.binary(max_size=9), size=st.integers(1, 64))
@example(text="pa\"ss/wo+rd \\ '$x'", before=b"", after=b"", size=7)
def test_no_encoding_of_a_secret_gets_through(text: str, before: bytes, after: bytes, size: int) -> None:
    secret = text.encode()
    if not secret.strip():
        return
    shown = [
        secret,
        quote(text, safe="").encode(),
        json.dumps(text).encode()[1:-1],
        json.dumps(text, ensure_ascii=False).encode()[1:-1],
        shlex.quote(text).encode(),
        repr(text).encode()[1:-1],
    ]
    stream = b"\n".join(shown)
    masker = Masker([secret])
    output = b"".join(masker.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + masker.flush()
    for line in output.split(b"\n"):
        assert line.count(MASK) >= 1
        assert not line.strip(b"*'\"")
    encoded = base64.b64encode(before + secret + after)
    masked = Masker([secret]).feed(encoded + b"\n")
    assert MASK in masked
    # At most the characters that also depend on the neighbours are left of it.
    assert len(masked.replace(MASK, b"")) - 1 <= (len(before) * 8 + 5) // 6 + (len(after) * 8 + 5) // 6 + 6


@given(values=SHORT, data=st.data(), at=st.integers(0, 30))
def test_a_safe_cut_leaves_no_piece_of_a_secret(values: list[bytes], data: st.DataObject, at: int) -> None:
    stream = data.draw(streams(values))
    cut = Masker(values).safe_cut(stream, min(at, len(stream)))
    assert cut >= min(at, len(stream))
    for form in forms(values):
        for begin in range(len(stream)):
            assert not (stream.startswith(form, begin) and begin < cut < begin + len(form))


@given(st.lists(st.binary(max_size=20)))
def test_without_secrets_chunks_pass_untouched(chunks: list[bytes]) -> None:
    masker = Masker()
    assert all(masker.feed(chunk) is chunk for chunk in chunks)
    assert masker.flush() == b""
