"""However a stream is cut, and however often its shipper restarts, what comes out is the masked whole."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstack.logs.masking import MASK, Masker, MaskSet

# Two letters, so that secrets overlap with themselves and each other all the time.
SHORT = st.lists(st.text("ab", min_size=1, max_size=7).map(str.encode), min_size=1, max_size=4)
LONG = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=6, max_size=40)


def mask_whole(data: bytes, wanted: list[bytes]) -> bytes:
    """The plain definition: every byte of every occurrence is covered, overlapping occurrences make one mask."""
    spans = sorted((at, at + len(form)) for form in wanted for at in range(len(data)) if data.startswith(form, at))
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
def streams(draw: st.DrawFn, wanted: list[bytes]) -> bytes:
    """Bytes made of the values, their beginnings and ends, and other things."""
    pieces = [value[a:b] for value in wanted for a in (0, 1) for b in (None, -1)]
    return b"".join(draw(st.lists(st.sampled_from([*pieces, b"a", b"b", b"x", b"\n"]), max_size=25)))


@given(data=st.data(), wanted=SHORT)
@example(data=None, wanted=[b"aaa"])
def test_cut_anywhere_the_output_is_that_of_the_whole(data: st.DataObject | None, wanted: list[bytes]) -> None:
    stream = b"aaaaaxaaaa" if data is None else data.draw(streams(wanted))
    cuts = [3, 4] if data is None else sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    masker = Masker(MaskSet(wanted))
    output = b"".join(masker.feed(stream[a:b]) for a, b in pairwise([0, *cuts, len(stream)])) + masker.flush()
    assert output == mask_whole(stream, wanted)
    assert all(value not in output for value in wanted)


@given(data=st.data(), wanted=SHORT)
def test_a_restart_that_reads_the_held_bytes_again_continues_the_output(
    data: st.DataObject, wanted: list[bytes]
) -> None:
    stream = data.draw(streams(wanted))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), min_size=1, max_size=6)))
    output, masker, read = b"", Masker(MaskSet(wanted)), 0
    for cut in (*cuts, len(stream)):
        output += masker.feed(stream[read:cut])
        read = cut - masker.held
        masker = Masker(MaskSet(wanted), covered=masker.covered)
    output += masker.feed(stream[read:]) + masker.flush()
    assert output == mask_whole(stream, wanted)


@given(data=st.data(), wanted=SHORT)
def test_what_is_held_back_is_bounded_and_may_become_a_secret(data: st.DataObject, wanted: list[bytes]) -> None:
    masker = Masker(MaskSet(wanted))
    fed = b""
    for byte in data.draw(streams(wanted)):
        fed += bytes([byte])
        masker.feed(bytes([byte]))
        held = fed[len(fed) - masker.held :]
        assert masker.held < max(masker.longest, 1)
        assert not held or any(form.startswith(held) for form in wanted)


@given(text=LONG, size=st.integers(1, 64))
@example(text="pa\"ss/wo+rd \\ '$x'", size=7)
@example(text="häß<lich>&", size=3)
def test_no_escape_of_a_secret_gets_through(text: str, size: int) -> None:
    secret = text.encode()
    if len(secret.strip()) < 4:
        return
    shown = [
        secret,
        quote(text, safe="").encode(),
        json.dumps(text).encode()[1:-1],
        json.dumps(text, ensure_ascii=False).encode()[1:-1],
        json.dumps({"error": json.dumps(text)}).encode()[13:-4],
        json.dumps(str(KeyError(text))).encode()[2:-2],
        shlex.quote(text).encode(),
        repr(text).encode()[1:-1],
        repr(secret).encode()[2:-1],
        secret.hex().encode(),
    ]
    stream = b"\n".join(shown)
    masker = Masker(MaskSet.of([secret]))
    output = b"".join(masker.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + masker.flush()
    for line, form in zip(output.split(b"\n"), shown, strict=True):
        assert line.count(MASK) >= 1, form
        assert not line.strip(b"*'\"\\"), form


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "base64": base64.b64encode,
    "url-safe base64": base64.urlsafe_b64encode,
}


@pytest.mark.parametrize("name", ENCODERS)
@given(
    secret=st.binary(min_size=6, max_size=120),
    before=st.binary(max_size=100),
    after=st.binary(max_size=9),
    width=st.sampled_from([30, 57, 60, 64, 76, 10_000]),
    line_break=st.sampled_from([b"\n", b"\r\n", b"\\n"]),
)
def test_within_encoded_bytes_nothing_is_left_that_is_the_secrets_alone(
    name: str, secret: bytes, before: bytes, after: bytes, width: int, line_break: bytes
) -> None:
    if len(secret.strip()) < 6:
        return
    encoded = ENCODERS[name](before + secret + after)
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    stream = line_break.join(lines)
    covered = covered_by(MaskSet.of([secret]), stream)
    # Of six bits each: the characters from the first that has only bits of the secret to the last.
    for index in range(-(-len(before) * 8 // 6), (len(before) + len(secret)) * 8 // 6):
        place = index + index // width * len(line_break)
        assert place in covered, (stream[:place], stream[place : place + 20])


@given(secret=st.binary(min_size=6, max_size=90), before=st.binary(max_size=40), width=st.sampled_from([32, 60, 9999]))
def test_within_hex_nothing_of_the_secret_is_left(secret: bytes, before: bytes, width: int) -> None:
    if len(secret.strip()) < 6:
        return
    encoded = (before + secret).hex().encode()
    stream = b"\n".join(encoded[at : at + width] for at in range(0, len(encoded), width))
    covered = covered_by(MaskSet.of([secret]), stream)
    assert all(index + index // width in covered for index in range(2 * len(before), len(encoded)))


def covered_by(wanted: MaskSet, stream: bytes) -> set[int]:
    return {at for begin, end in wanted.occurrences(stream, 0, len(stream)) for at in range(begin, end)}


@given(wanted=SHORT, data=st.data(), at=st.integers(0, 30))
def test_a_safe_cut_leaves_no_piece_of_a_secret(wanted: list[bytes], data: st.DataObject, at: int) -> None:
    stream = data.draw(streams(wanted))
    cut = Masker(MaskSet(wanted)).safe_cut(stream, min(at, len(stream)))
    assert cut >= min(at, len(stream))
    for form in wanted:
        for begin in range(len(stream)):
            assert not (stream.startswith(form, begin) and begin < cut < begin + len(form))


def test_an_output_of_nothing_but_secrets_is_listed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.logs.masking._STRIDE", 1)
    wanted = [b"aaaa", b"abab", b"b"]
    for stream in (b"a" * 301, b"xabababab" * 40, b"aaab" * 90):
        masker = Masker(MaskSet(wanted))
        assert masker.feed(stream) + masker.flush() == mask_whole(stream, wanted)


@given(st.lists(st.binary(max_size=20)))
def test_without_secrets_chunks_pass_untouched(chunks: list[bytes]) -> None:
    masker = Masker()
    assert all(masker.feed(chunk) is chunk for chunk in chunks)
    assert masker.flush() == b""
