"""A working copy laid over folders that it does not change: overlayfs, as root on Linux.

    attempt/work            what the job sees and writes to: the mount
    attempt/layers/upper    what is the job's own: its code, and what it wrote
    attempt/layers/scratch  the kernel's
    attempt/layers/below    which entries of the cache lie below, for the next agent (`runner.inputs`)

One mount for the whole working copy, not one for each input: a mount point can be neither moved nor removed, and jobs
do that with their inputs. It belongs to no process: it is there when the agent is killed, and gone after a boot.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dstack.domain import faults
from dstack.runner.folders import LAYERS

faults.declare("input-uncovered:before", "input-uncovered:after")

WORK: Final = "work"
UPPER: Final = f"{LAYERS}/upper"
_SCRATCH: Final = f"{LAYERS}/scratch"
_OPTIONS: Final = "redirect_dir=on,index=off,metacopy=off"
"""Folders of a lower layer can be renamed; a file that is written to is copied whole."""
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_REACH: Final = """
import ctypes, os, sys
pid, own, work = int(sys.argv[1]), int(sys.argv[2]), os.fsencode(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    found = getattr(libc, name)(*arguments)
    if found < 0:
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
    return found

NEWNS, OPEN_TREE, MOVE_MOUNT, CLONE, FROM_EMPTY, HERE = 0x20000, 428, 429, 1, 4, -100
theirs, ours = (os.open(f"/proc/{one}/ns/mnt", os.O_RDONLY) for one in (pid, own))
call("setns", theirs, NEWNS)
if not os.path.ismount(work):
    sys.exit("nothing is mounted for it either")
tree = call("syscall", OPEN_TREE, HERE, work, CLONE)
call("setns", ours, NEWNS)
call("syscall", MOVE_MOUNT, tree, b"", HERE, work, FROM_EMPTY)
"""
"""A process of its own, for only one with a single thread may change its mount namespace."""
MOST_LAYERS: Final = 100
"""What fits into the one page that the kernel takes as options."""


def mount(lowers: Sequence[Path], attempt: Path) -> None:
    """Show `lowers`, the uppermost first, below `attempt/layers/upper` in `attempt/work`. Raises OSError."""
    for name in (UPPER, _SCRATCH, WORK):
        (attempt / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    # By open folders: a path may have what separates options, and many paths are longer than the kernel takes.
    open_folders: list[int] = []
    try:
        for path in (*lowers, attempt / UPPER, attempt / _SCRATCH):
            open_folders.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # noqa: PERF401 - closed below
        *below, upper, scratch = [f"/proc/self/fd/{fd}" for fd in open_folders]
        options = f"lowerdir={':'.join(below)},upperdir={upper},workdir={scratch},{_OPTIONS}"
        _call("mount", b"overlay", os.fsencode(attempt / WORK), b"overlay", 0, options.encode())
    finally:
        for fd in open_folders:
            os.close(fd)


def is_mounted(attempt: Path) -> bool:
    return os.path.ismount(attempt / WORK)


def has_upper(attempt: Path) -> bool:
    """Whether what is the job's own still lies beside `attempt/work`; False once `uncover` has made it that."""
    return os.path.lexists(attempt / UPPER)


def unmount(attempt: Path) -> None:
    """Take away what is mounted at `attempt/work`, also while something works in it. Raises OSError."""
    while is_mounted(attempt):
        _call("umount2", os.fsencode(attempt / WORK), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def reach(pid: int, attempt: Path) -> None:
    """Bring what is mounted at `attempt/work` for the process `pid` into this process's sight. Raises OSError.

    An agent that systemd gives a mount namespace of its own gets another one with its next start, while its jobs go on
    in the old one. A second mount of the same layers would not see what is done through the first.
    """
    done = subprocess.run(
        [sys.executable, "-c", _REACH, str(pid), str(os.getpid()), str(attempt / WORK)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise OSError(f"the working copy of process {pid} cannot be reached: {done.stderr.strip()[-300:]}")


def uncover(attempt: Path) -> None:
    """Leave in `attempt/work` what is the job's own, and nothing of what lay below. Raises OSError.

    Cut off anywhere and called again, it does the rest: without an upper layer, `work` is that already.
    """
    unmount(attempt)
    if has_upper(attempt):
        # In place of the empty folder that was the mount's; were anything in it, it would stay, and this fail.
        faults.rename(attempt / UPPER, attempt / WORK, "input-uncovered")
    if os.path.lexists(attempt / LAYERS):
        shutil.rmtree(attempt / LAYERS)


def obstacle(lower: Path, attempts: Path) -> str:
    """Why a folder of `attempts` cannot be laid over one in `lower`; "" where it can. Tries it, all that jobs do."""
    if not sys.platform.startswith("linux"):
        return "only Linux has overlays"
    if os.geteuid() != 0:
        return "only root may mount an overlay"
    below = Path(tempfile.mkdtemp(prefix="probe-", dir=lower))
    attempt = Path(tempfile.mkdtemp(prefix="probe-", dir=attempts))
    try:
        return _try(below, attempt)
    except OSError as error:
        return f"an overlay cannot be mounted in {attempts}: {error.strerror}"
    finally:
        unmount(attempt)
        shutil.rmtree(attempt, ignore_errors=True)
        shutil.rmtree(below, ignore_errors=True)


def _try(below: Path, attempt: Path) -> str:
    for name in ("moved", "removed"):
        (below / name).mkdir()
        (below / name / "file").write_text("below")
    mount([below], attempt)
    work = attempt / WORK
    (work / "moved").rename(work / "other")
    shutil.rmtree(work / "removed")
    (work / "removed").mkdir()
    (work / "other" / "file").write_text("above")
    found = (sorted(os.listdir(work)), os.listdir(work / "removed"), (work / "other" / "file").read_text())
    if found != (["other", "removed"], [], "above"):
        return f"an overlay in {attempt.parent} does not show what was done in it"
    if (below / "moved" / "file").read_text() != "below":
        return f"an overlay in {attempt.parent} lets writes through"
    return ""


def _call(name: str, *arguments: bytes | int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError(f"{name} of an overlay needs Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc[name]
    # `flags` of mount is an unsigned long; everything else is a pointer or an int.
    call.argtypes = [
        ctypes.c_char_p if isinstance(argument, bytes) else ctypes.c_ulong if name == "mount" else ctypes.c_int
        for argument in arguments
    ]
    if call(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
