"""The shell wrapper around a job and the two small files it writes: `proc` (who runs) and `exit` (how it ended).

The wrapper is what lets the agent die without the job noticing: it waits for the command and records the status.
Built-ins only: a `mv` would double its cost. A record is therefore not renamed into place but is one short write
of a line over a file that was made beforehand, blocks and all, so that it can neither be seen half nor fail on a
full disk; a record without its line end counts as absent.

`proc`: `<boot id> <oom kills before> <cgroup joined: 0|1> <line of /proc/PID/stat>`
`exit`: `exit <code> [words]`, then padding
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dstack.runner.executors.interface import Exit, exit_of

# Traps, not ignored signals: a trap falls back to the default in the command, an ignored signal would be inherited.
# The wrapper's own stderr is closed off, since shells print "Killed" and the like into it.
SCRIPT = r"""exec 3>&2 2>/dev/null
trap : HUP INT QUIT USR1 USR2 PIPE ALRM TERM
_dstack_d=$1 _dstack_c=0
if [ -n "$4" ] && echo 0 >"$4/cgroup.procs"; then _dstack_c=1; fi
if [ -n "$5" ]; then echo 0 >"$5/cgroup.procs"; fi
read -r _dstack_s </proc/$$/stat || _dstack_s="$$ (sh) S $PPID $$ $$"
printf '%s %s %s\n' "$2" "$_dstack_c" "$_dstack_s" 1<>"$_dstack_d/proc" || exit 1
if cd "$3"; then
  unset OLDPWD
  shift 5
  (exec "$@") 2>&3 3>&-
  printf 'exit %d\n' "$?" 1<>"$_dstack_d/exit"
else
  printf 'dstack: the working directory %s cannot be entered\n' "$3" >&3
  printf 'exit 126 the working directory cannot be entered\n' 1<>"$_dstack_d/exit"
fi
"""

_BLANK = b"\n" * 256
_PROC_BLANK = b"\n" * 1024


@dataclass(frozen=True, slots=True)
class ProcRecord:
    """Who the wrapper is. `start` is in clock ticks since boot, 0 where the system does not tell."""

    boot_id: str
    oom_kills: int
    in_cgroup: bool
    pid: int
    start: int


def prepare(folder: Path) -> None:
    """Make the blank records. Raises FileExistsError when something was already launched from this folder."""
    for name, blank, flags in (("exit", _BLANK, os.O_EXCL), ("proc", _PROC_BLANK, os.O_TRUNC)):
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | flags, 0o600)
        try:
            os.write(fd, blank)
        finally:
            os.close(fd)


def write_exit(folder: Path, code: int, words: str) -> None:
    """Record an end without a process; `words` without line breaks."""
    line = f"exit {code} {' '.join(words.split())}\n".encode()
    fd = os.open(folder / "exit", os.O_WRONLY)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def read_exit(folder: Path) -> Exit | None:
    """The recorded end, None while there is none."""
    line = _first_line(folder / "exit")
    if line is None or not line.startswith("exit "):
        return None
    code, _, words = line[5:].partition(" ")
    return exit_of(int(code), detail=words)


def read_proc(folder: Path) -> ProcRecord | None:
    """Who was started, None when the wrapper has not said so."""
    line = _first_line(folder / "proc")
    if not line:
        return None
    boot_id, oom_kills, in_cgroup, stat = line.split(" ", 3)
    fields = stat.rpartition(")")[2].split()
    start = int(fields[19]) if len(fields) > 19 else 0
    return ProcRecord(boot_id, int(oom_kills), in_cgroup == "1", int(stat.split(" ", 1)[0]), start)


def was_launched(folder: Path) -> bool:
    """Whether `prepare` was called here."""
    return (folder / "exit").exists()


def _first_line(path: Path) -> str | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    line, end, _ = data.partition(b"\n")
    return line.decode(errors="replace") if end else None
