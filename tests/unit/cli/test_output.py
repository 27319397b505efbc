"""What of a job's output reaches stdout, and how."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.cli.output import LogOutput


class Pipe:
    def __init__(self) -> None:
        self.receive, self.send = os.pipe()

    def text(self) -> bytes:
        os.close(self.send)
        with open(self.receive, "rb") as file:
            return file.read()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.send, pipe.receive):
        try:
            os.close(fd)
        except OSError:
            pass


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_the_bytes_of_one_job_pass_through_untouched(pieces: list[bytes]) -> None:
    pipe = Pipe()
    output = LogOutput(pipe.send)
    for piece in pieces:
        output.write("train", piece)
    assert pipe.text() == b"".join(pieces)


def test_lines_of_several_jobs_are_whole_and_named(pipe: Pipe) -> None:
    output = LogOutput(pipe.send)
    output.expect("train")
    output.expect("prepare")
    output.write("prepare", b"a\nhal")
    output.write("train", b"x\n")
    output.write("prepare", b"f\nrest")
    output.end("prepare")
    output.write("train", b"y\n")
    assert pipe.text() == b"prepare | a\ntrain   | x\nprepare | half\nprepare | rest\ntrain   | y\n"


def test_a_progress_bar_moves(pipe: Pipe) -> None:
    output = LogOutput(pipe.send)
    output.expect("other")
    output.write("train", b"10%\r20%\r")
    output.write("train", b"30%\rdone\r\n")
    assert pipe.text() == b"train | 10%\rtrain | 20%\rtrain | 30%\rtrain | done\r\n"


def test_an_open_line_is_ended_before_another_job_writes(pipe: Pipe) -> None:
    output = LogOutput(pipe.send)
    output.write("a", b"no end")
    output.write("b", b"line\n")
    assert pipe.text() == b"no end\nb | line\n"


def test_a_line_without_end_is_not_kept_back_for_ever(pipe: Pipe) -> None:
    output = LogOutput(pipe.send)
    output.expect("b")
    output.write("a", b"x" * 40_000)
    os.set_blocking(pipe.receive, False)
    assert os.read(pipe.receive, 100).startswith(b"a | xxx")


def test_nobody_reads(pipe: Pipe) -> None:
    os.close(pipe.receive)
    with pytest.raises(BrokenPipeError):
        LogOutput(pipe.send).write("a", b"x")
