"""Tools that people keep folders with: cp and rsync as mirrors, borg and restic as backups, dvc as versions.

Each without compression and encryption where it can do without: the bytes are random, and ours has neither.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.folders import Folder, discard
from benchmarks.keepers import Keeper
from benchmarks.measure import check
from benchmarks.ours import plain_environment
from benchmarks.peers import Peer

PROGRAMS = ("cp", "rsync", "borg", "restic")


def keepers(source: Folder, peers: Sequence[Peer], scratch: Path) -> list[Keeper]:
    """What stands beside ours for the folder `source`. dvc works on a copy of its own: it wants the folder in its."""
    makers = (cp, rsync, rsync_synced, borg, restic)
    found = [make(source, scratch / f"kept-{source.kind.name}") for make in makers]
    return [*found, *(dvc(peer, source, scratch) for peer in peers if peer.name == "dvc")]


def versions() -> dict[str, str]:
    """Of the programs that are installed."""
    found: dict[str, str] = {}
    for program in PROGRAMS:
        if shutil.which(program):
            option = "version" if program == "restic" else "--version"
            said = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
            number = re.search(r"\d+(\.\d+)+", said)
            found[program] = number[0] if number else "?"
    return found


def cp(source: Folder, folder: Path) -> Keeper:
    return replace(_copier("cp -a", source, folder / "cp"), whens=("first",))


def rsync(source: Folder, folder: Path) -> Keeper:
    return _copier("rsync -a", source, folder / "rsync")


def rsync_synced(source: Folder, folder: Path) -> Keeper:
    """As durable as what the others do."""
    copier = _copier("rsync -a --fsync", source, folder / "rsync-fsync")
    return replace(copier, whens=("first",), restores=False, lacking=copier.lacking or _without_fsync())


def borg(source: Folder, folder: Path) -> Keeper:
    kept, name = folder / "borg", source.path.name
    environment = plain_environment(folder / "home") | {
        "BORG_BASE_DIR": str(folder / "borg-base"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }

    def forget() -> None:
        _empty(kept, folder / "borg-base")
        check(["borg", "init", "--encryption", "none", kept], kept.parent, environment)

    def restore(target: Path) -> list[str | Path]:
        last = check(["borg", "list", "--last", "1", "--short", kept], kept.parent, environment).strip()
        return ["sh", "-c", 'cd "$1" && exec borg extract "$2"', "sh", target, f"{kept}::{last}"]

    save = ["borg", "create", "--compression", "none", f"{kept}::{{now:%Y%m%d%H%M%S%f}}", name]
    return Keeper(
        "borg",
        source,
        environment,
        kept,
        forget,
        save,
        restore,
        lacking=_lacking("borg"),
        verify=["borg", "check", "--verify-data", kept],
        collect=["borg", "compact", kept],
    )


def restic(source: Folder, folder: Path) -> Keeper:
    kept, name = folder / "restic", source.path.name
    environment = plain_environment(folder / "home") | {
        "RESTIC_REPOSITORY": str(kept),
        "RESTIC_PASSWORD": "benchmark",
        "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
    }

    def forget() -> None:
        _empty(kept, folder / "restic-cache")
        check(["restic", "init", "--quiet"], kept.parent, environment)

    save = ["restic", "backup", "--quiet", "--compression", "off", name]
    return Keeper(
        "restic",
        source,
        environment,
        kept,
        forget,
        save,
        lambda target: ["restic", "restore", "--quiet", "latest", "--target", target],
        lacking=_lacking("restic"),
        verify=["restic", "check", "--quiet", "--read-data"],
        collect=["restic", "prune", "--quiet"],
    )


def dvc(peer: Peer, source: Folder, scratch: Path) -> Keeper:
    cwd = scratch / f"dvc-{source.kind.name}"
    own = Folder(cwd / source.path.name, source.kind)
    environment = plain_environment(scratch / "home") | peer.variables
    environment |= {
        "PATH": f"{peer.environment / 'bin'}:{environment['PATH']}",
        "DVC_SITE_CACHE_DIR": str(cwd / "site"),
    }
    program = peer.environment / "bin" / "dvc"

    def forget() -> None:
        discard(cwd / "site")
        discard(cwd / ".dvc")
        (cwd / f"{own.path.name}.dvc").unlink(missing_ok=True)
        if not own.path.exists():
            own.make()
        check([program, "init", "--quiet", "--no-scm"], cwd, environment)

    return Keeper(
        "dvc",
        own,
        environment,
        cwd / ".dvc",
        forget,
        [program, "add", "--quiet", own.path.name],
        lambda target: [program, "checkout", "--quiet", f"{own.path.name}.dvc"],
        restored_in=cwd,
    )


def _copier(tool: str, source: Folder, kept: Path) -> Keeper:
    """The command `tool` puts a folder into another one, both ways."""
    command, name = tool.split(), source.path.name
    return Keeper(
        tool,
        source,
        plain_environment(kept.parent / "home"),
        kept,
        lambda: _empty(kept),
        [*command, name, kept],
        lambda target: [*command, kept / name, target],
        lacking=_lacking(command[0]),
    )


def _empty(*folders: Path) -> None:
    for folder in folders:
        discard(folder)
        folder.mkdir(parents=True)


def _without_fsync() -> str | None:
    said = subprocess.run(["rsync", "--help"], capture_output=True, text=True, check=False).stdout
    return None if "--fsync" in said else "this rsync cannot wait for the disk"


def _lacking(program: str) -> str | None:
    return None if shutil.which(program) else "not installed"
