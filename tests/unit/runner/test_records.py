from __future__ import annotations

from pathlib import Path

import pytest

from dstack.runner.executors import wrapper
from dstack.runner.executors.interface import Exit


def test_an_attempt_can_be_prepared_once(tmp_path: Path) -> None:
    assert not wrapper.was_launched(tmp_path)
    wrapper.prepare(tmp_path)
    assert wrapper.was_launched(tmp_path)
    assert wrapper.read_exit(tmp_path) is None
    assert wrapper.read_proc(tmp_path) is None
    with pytest.raises(FileExistsError):
        wrapper.prepare(tmp_path)


def test_an_end_written_by_the_agent_keeps_its_words(tmp_path: Path) -> None:
    wrapper.prepare(tmp_path)
    wrapper.write_exit(tmp_path, 127, "no such\nprogram")
    assert wrapper.read_exit(tmp_path) == Exit(127, detail="no such program")


def test_a_record_without_its_line_end_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / "exit").write_bytes(b"exit 0")
    assert wrapper.read_exit(tmp_path) is None


def test_a_program_name_with_spaces_and_brackets_does_not_shift_the_fields(tmp_path: Path) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "proc").write_text(f"boot-1 5 1 42 (a) b) S {fields}\n\n")
    assert wrapper.read_proc(tmp_path) == wrapper.ProcRecord("boot-1", 5, True, 42, 22)
