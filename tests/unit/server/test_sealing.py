"""The key of the secrets: made once, never written over; what is sealed opens with it and for its owner only."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import pytest

from dstack.server.services.sealing import KeyMissing, Sealer, SealingError

ONE, OTHER = "11" * 32, "22" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


def test_what_is_sealed_opens_again_and_shows_nothing(path: Path) -> None:
    Sealer(path).create()
    sealed = Sealer(path).seal(b"hf_abcdef", b"main|repo|TOKEN")
    assert Sealer(path).open(sealed, b"main|repo|TOKEN") == b"hf_abcdef"
    assert b"hf_abc" not in sealed
    assert sealed != Sealer(path).seal(b"hf_abcdef", b"main|repo|TOKEN")


def test_the_file_is_its_owners_alone_and_says_what_it_is(path: Path) -> None:
    Sealer(path).create()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "keep a copy" in path.read_text()
    assert os.listdir(path.parent) == [path.name]


def test_a_key_is_never_written_over(path: Path) -> None:
    Sealer(path).create()
    before = path.read_bytes()
    threads = [threading.Thread(target=Sealer(path).create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_swapped_rows_do_not_open(path: Path) -> None:
    sealer = Sealer(path, ONE)
    sealed = sealer.seal(b"value", b"A")
    with pytest.raises(SealingError, match="belongs to another secret"):
        sealer.open(sealed, b"B")
    for at in (0, 3, 20, len(sealed) - 1):
        with pytest.raises(SealingError):
            sealer.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"A")
    with pytest.raises(SealingError):
        sealer.open(b"", b"A")


def test_a_lost_key_is_named(path: Path) -> None:
    with pytest.raises(KeyMissing, match=str(path)):
        Sealer(path).seal(b"value", b"A")
    with pytest.raises(KeyMissing, match=str(path)):
        Sealer(path).check()


def test_a_wrong_key_is_named_and_the_right_one_can_be_put_back(path: Path) -> None:
    Sealer(path).create()
    right = path.read_text()
    sealed = Sealer(path).seal(b"value", b"A")
    path.write_text(OTHER + "\n")
    sealer = Sealer(path)
    with pytest.raises(SealingError, match=f"another key than that of {path}"):
        sealer.open(sealed, b"A")
    path.write_text(right)
    assert sealer.open(sealed, b"A") == b"value"


def test_a_new_key_before_the_old_one_seals_and_both_open(path: Path) -> None:
    old = Sealer(path, ONE).seal(b"old", b"A")
    both = Sealer(path, f"{OTHER},{ONE}")
    new = both.seal(b"new", b"A")
    assert (both.open(old, b"A"), both.open(new, b"A")) == (b"old", b"new")
    assert Sealer(path, OTHER).open(new, b"A") == b"new"
    with pytest.raises(SealingError, match="DSTACK_SERVER_SECRETS_KEY"):
        Sealer(path, OTHER).open(old, b"A")


def test_a_key_that_is_given_needs_no_file(path: Path) -> None:
    sealer = Sealer(path, ONE)
    sealer.create()
    sealer.check()
    assert not path.exists()


@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_key_in_base64(path: Path, alphabet: type) -> None:
    raw = bytes(range(224, 256))
    sealed = Sealer(path, raw.hex()).seal(b"value", b"A")
    assert Sealer(path, alphabet(raw).decode()).open(sealed, b"A") == b"value"  # type: ignore[call-arg]


@pytest.mark.parametrize("text", ["", "# nothing\n", "12ab\n", "zz" * 32, "ä" * 64])
def test_what_is_no_key_is_not_shown(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SealingError, match=r"secrets\.key") as told:
        Sealer(path).check()
    assert not text.strip() or text.strip() not in str(told.value) or text.startswith("#")


def test_a_key_that_others_can_read_is_refused(path: Path) -> None:
    path.write_text(ONE)
    path.chmod(0o644)
    with pytest.raises(SealingError) as told:
        Sealer(path).check()
    assert told.value.hint == f"chmod 600 {path}"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SealingError, match="cannot be written"):
        Sealer(tmp_path / "missing" / "secrets.key").create()
