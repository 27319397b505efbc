"""Runs whole commands and says how long they took."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import BinaryIO

Command = Sequence[str | os.PathLike[str]]


class CommandFailed(Exception):
    """A measured command ended with another code than 0, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a command, in seconds. `first` is when its awaited line appeared; `cpu` counts its children too,
    but not what works for it in other programs (a server). `grown` is by how many bytes what it keeps has grown,
    `memory` the most bytes of memory that it or one of its children held."""

    wall: float
    cpu: float
    first: float | None = None
    grown: float | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One tool's way to do what a row measures."""

    tool: str
    command: Command
    cwd: Path
    environment: Mapping[str, str]
    awaited: bytes | None = None
    """A line of the output to wait for."""
    before: Callable[[], object] = lambda: None
    """Done before each run, not measured."""
    after: Callable[[Path], object] = lambda output: None
    """Checks what the run did, given the file with its output; not measured."""
    repeats: int | None = None
    """Fewer than the row's, for what takes very long."""
    kept: Callable[[], int] | None = None
    """Bytes of what the tool keeps, looked at before and after each run."""
    inside: Callable[[], Sample] | None = None
    """Measures within a program that runs already, instead of the command."""
    size: int | None = None
    """Where this case works on more or less than the row says."""
    lacking: str | None = None
    """Why this tool cannot be measured here, in words; its line of the table says so."""


@dataclass(slots=True)
class Row:
    """What is measured, and on how many steps, lines or the like one case works (`size`). `rate` is how much of what
    goes through, and its name: (20_000, "files/s")."""

    name: str
    title: str
    cases: Sequence[Case]
    repeats: int = 5
    size: int = 1
    rate: tuple[float, str] | None = None
    text: str = ""
    """A table that is measured another way; it stands in place of the one of the samples."""
    samples: dict[str, list[Sample]] = field(default_factory=dict[str, list[Sample]])
    notes: dict[str, str] = field(default_factory=dict[str, str])

    def measure(self) -> None:
        """Fill `samples`: every case in turn, again and again, so that a slow minute of the machine hits all alike;
        every second time backwards, so that none always comes after the same other."""
        self.notes |= {case.tool: case.lacking for case in self.cases if case.lacking}
        for turn in range(self.repeats):
            for case in self.cases if turn % 2 == 0 else reversed(self.cases):
                if case.tool in self.notes or turn >= (case.repeats or self.repeats):
                    continue
                try:
                    self.samples.setdefault(case.tool, []).append(_sample(case))
                except CommandFailed as error:
                    self.samples.pop(case.tool, None)
                    self.notes[case.tool] = str(error)

    def median(self, tool: str, what: str = "wall") -> float | None:
        """The median of a field of the samples; None where it was not measured."""
        values = [value for sample in self.samples.get(tool, ()) if (value := getattr(sample, what)) is not None]
        return median(values) if values else None


def _sample(case: Case) -> Sample:
    """Measure `case` once, with what it does to the disk."""
    case.before()
    before = case.kept() if case.kept else 0
    if case.inside:
        found = case.inside()
        case.after(Path(os.devnull))
    else:
        found = run(case)
    return replace(found, grown=case.kept() - before) if case.kept else found


def run(case: Case, timeout: float = 900.0) -> Sample:
    """Run the command of `case` once. Raises CommandFailed with the end of its output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as sink:
            began = time.perf_counter()
            process = subprocess.Popen(
                case.command,
                cwd=case.cwd,
                env=case.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if case.awaited else sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            timer = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            try:
                first = _await(process, case.awaited, sink, began) if case.awaited else None
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                timer.cancel()
            wall = time.perf_counter() - began
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if process.stdout:
            process.stdout.close()
        if code != 0 or (case.awaited and first is None):
            tail = output.read_bytes()[-600:].decode(errors="replace").strip()
            ending = f"code {code}" if wall < timeout else f"SIGKILL after {timeout:.0f} s"
            raise CommandFailed(f"{' '.join(map(str, case.command))[:200]}: {ending}: {tail}")
        case.after(output)
        return Sample(wall, usage.ru_utime + usage.ru_stime, first, memory=usage.ru_maxrss * 1024)


def _await(process: subprocess.Popen[bytes], line: bytes, sink: BinaryIO, began: float) -> float | None:
    """Copy the output to `sink` until it ends; when `line` appeared, in seconds after `began`."""
    assert process.stdout is not None
    first, seen = None, b""
    descriptor = process.stdout.fileno()
    while chunk := os.read(descriptor, 65536):
        if first is None:
            seen += chunk
            if line in seen:
                first = time.perf_counter() - began
        sink.write(chunk)
    return first


def check(command: Command, cwd: Path, environment: Mapping[str, str]) -> str:
    """The output of a command that only prepares something. Raises CommandFailed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(map(str, command))}: code {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Idle:
    """A program that does nothing: its memory in bytes, and its share of one core in percent."""

    resident: int
    proportional: int
    cpu: float


def idle(pids: Sequence[int], seconds: float) -> Idle:
    """Watch processes, taken together, for `seconds`. Linux only."""
    before = _cpu_seconds(pids)
    time.sleep(seconds)
    spent = _cpu_seconds(pids) - before
    sizes = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            kind, _, amount = line.partition(":")
            if kind in sizes:
                sizes[kind] += int(amount.split()[0]) * 1024
    return Idle(sizes["Rss"], sizes["Pss"], 100 * spent / seconds)


def family(pid: int) -> list[int]:
    """`pid` and everything it started that still runs. Linux only."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has held since it started. Linux only."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def cpu_seconds_with_children(pid: int) -> float:
    """What a process has used so far, and those of its children that ended and were waited for. Linux only."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds(pids: Sequence[int]) -> float:
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")
