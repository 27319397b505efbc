"""Logs that are too long, too fast, or no text (F33), with real processes: never a failed job, and bounded memory."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.home import Home

MIB = 1 << 20
LIMIT = 2 * MIB
"""Instead of 1 GiB: the long log is then to it what 10 GiB are to that."""
LONG = 20 * MIB
MOST_MEMORY = 32 * MIB
"""Bytes that server and runner may take for a log beyond what they have without, however long it is."""

LOUD = """
import os, random, sys
kind, size = sys.argv[1], int(sys.argv[2])
MIB = 1 << 20
pieces = {
    "without-end": lambda at: b"x" * MIB,
    "returns": lambda at: b"".join(b"\\r%6d%% |####|" % n for n in range(70_000))[:MIB],
    "nul": lambda at: bytes(MIB),
    "binary": lambda at: random.Random(at).randbytes(MIB),
    "escapes": lambda at: b"\\x1b[2J\\x1b]0;x\\x07\\x1b[9999;9999H" * (MIB // 20),
    "brackets": lambda at: b"[" * MIB,
    "json": lambda at: (b'{"step": 1, "loss": 0.5}\\n' * (MIB // 26)).ljust(MIB, b" "),
}
for at in range(size // MIB):
    os.write(1, pieces[kind](at))
"""
KINDS = ["without-end", "returns", "nul", "binary", "escapes", "brackets", "json"]


class Memory:
    """What server and runner take, beside what they took when this was made."""

    def __init__(self, home: Home) -> None:
        home.types("run", "small")
        self._pids = (home.server(), home.runner())
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the highest mark begins anew
        self._before = [_resident(pid, "VmRSS") for pid in self._pids]

    def more(self) -> int:
        """Bytes at the highest, of the one of them that took the most."""
        peaks = [_resident(pid, "VmHWM") for pid in self._pids]
        return max(peak - before for peak, before in zip(peaks, self._before, strict=True))


def _resident(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_a_log_over_its_limit(home: Home) -> None:
    """Head and tail are kept, and a mark says what is missing; the disk holds no more of it than that meanwhile."""
    home.environment["DSTACK_RUNNER_LOG_LIMIT"] = str(LIMIT)
    lines = LONG // 64
    home.write(f"""\
workflows:
  - {{name: small, provider: bash, commands: [echo small]}}
  - name: long
    provider: bash
    commands:
      - seq -f '%063.0f' {lines}
      - touch $HOME/printed
      - until [ -e $HOME/go ]; do sleep 0.02; done
      - echo last
""")
    memory = Memory(home)
    following = home.start("run", "long")
    home.wait(lambda: (home.root / "printed").exists() or None, "everything is printed")
    (attempt,) = home.attempts()
    spool = attempt / "spool"
    assert spool.stat().st_size == 64 * lines
    home.wait(lambda: spool.stat().st_blocks * 512 < LIMIT + 5 * MIB or None, "room is given back while it runs")
    (home.root / "go").touch()
    shown = home.ends(following).stdout
    assert memory.more() < MOST_MEMORY
    (run,) = [run for run in home.runs() if run["workflow"] == "long"]
    assert (run["status"], run["exit_code"]) == ("done", 0)
    assert home.types("logs", run["name"]).stdout == shown
    head, mark, tail = re.split(r"\n(\[dstack: \d+ bytes left out: a log keeps 2MiB, .*\])\n", shown)
    written = "".join(f"{number:063}\n" for number in range(1, lines + 1)) + "last\n"
    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(head) + len(tail) == LIMIT
    assert int(mark.split()[1]) == len(written) - LIMIT
    assert "left out" not in home.types("explain", run["name"]).stdout, "nothing failed"


@pytest.mark.parametrize(("workflow", "kinds"), [("loud", KINDS), ("masked", ["without-end", "binary"])])
def test_what_is_no_line_of_text(home: Home, workflow: str, kinds: list[str]) -> None:
    """100 MiB without an end of a line, and others: all of it is shown and kept, byte for byte."""
    home.write("""\
workflows:
  - {name: small, provider: bash, commands: [echo small]}
  - {name: loud, provider: bash, commands: ['python3 loud.py ${{ run.args }}']}
  - name: masked
    provider: bash
    environment: {TOKEN: '${{ secrets.TOKEN }}'}
    commands: ['python3 loud.py ${{ run.args }}']
""")
    (home.repo / "loud.py").write_text(LOUD)
    home.types("secrets", "add", "TOKEN", "a-t0ken-that-nobody-prints")
    memory = Memory(home)
    for kind in kinds:
        size = (100 if kind == "without-end" and workflow == "loud" else 4) * MIB
        with subprocess.Popen([sys.executable, "-c", LOUD, kind, str(size)], stdout=subprocess.PIPE) as alone:
            expected = digest(alone)
        assert digest(home.start("run", workflow, kind, str(size))) == expected, kind
        assert home.runs()[0]["jobs"][0]["log_length"] == expected[0]
        assert digest(home.start("logs", home.runs()[0]["name"])) == expected, kind
    assert memory.more() < MOST_MEMORY


def digest(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Length and SHA-256 of what a program writes, which is never held whole; it ends well."""
    assert process.stdout
    found, length = hashlib.sha256(), 0
    while data := process.stdout.read(MIB):
        found.update(data)
        length += len(data)
    assert process.wait() == 0
    return length, found.hexdigest()


def test_a_million_lines_a_second(home: Home) -> None:
    """As fast as a program can write lines: each is kept."""
    home.write("workflows:\n  - {name: fast, provider: bash, commands: [seq -w 2000000]}\n")
    shown = home.types("run", "fast").stdout
    assert shown == "".join(f"{number:07}\n" for number in range(1, 2_000_001))
