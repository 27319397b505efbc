"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.resources import Gpu, Requirements, format_memory, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("64GB", 64_000_000_000),
        ("64G", 64_000_000_000),
        ("16GiB", 16 * 2**30),
        ("16Gi", 16 * 2**30),
        ("512MiB", 512 * 2**20),
        ("512mb", 512_000_000),
        ("1.5 TB", 1_500_000_000_000),
        (" 2 KiB ", 2048),
        ("3k", 3000),
        ("1TiB", 2**40),
    ],
)
def test_parse(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1,5GB", "1e3", "12XB", "1 GB x", "1.", ".5GB", "0x10", "∞"])
def test_parse_says_which_forms_it_takes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a memory size; write for example 512MB, 16GB or 16GiB") as caught:
        parse_memory(text)
    assert f"`{text}`" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (900 * 1024, "900KiB"),
        (16 * 2**30, "16GiB"),
        (64_000_000_000, "64GB"),
        (2**40, "1TiB"),
        (5000 * 2**40, "5000TiB"),
    ],
)
def test_format(size: int, text: str) -> None:
    assert format_memory(size) == text


@given(st.integers(min_value=0, max_value=2**53))
def test_what_is_shown_can_be_typed_and_is_close(size: int) -> None:
    assert parse_memory(format_memory(size)) == pytest.approx(size, rel=0.05)
    assert parse_memory(str(size)) == size


def test_a_job_that_says_nothing_asks_for_one_cpu_and_no_gpu() -> None:
    assert Requirements() == Requirements(cpu=1, memory=None, gpu=Gpu(count=0), shm_size=None, interruptible=False)
