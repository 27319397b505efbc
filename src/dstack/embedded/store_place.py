"""Where a home's packs lie: `server/store`, or the folder that `dstack server move-store` has put them into.

home/server/store.json   {store, path, old}   the store's id, where it is (null: in the home), what is left of a move
STORE/store.json         {store, state}       marks the folder, so that a disk that is not mounted is never taken
                                              for an empty store

StoreAway   the folder is not the store that the home had: nothing is made in its place
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from dstack.embedded.home import EmbeddedError

NAME: Final = "store.json"
PART: Final = f".{NAME}."
"""How the name of an unfinished one begins."""
PACKS: Final = "packs"
State = Literal["whole", "moving", "left"]
"""Of a marked folder: the store, a move into it that is under way, or what a move has left behind."""
_STATES: Final[dict[str, State]] = {"whole": "whole", "moving": "moving", "left": "left"}


class StoreAway(EmbeddedError):
    """The home's store is not where it should be."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the home says of its store."""

    store: str
    path: str | None = None
    old: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """What a folder says of itself."""

    store: str
    state: State


def store_folder(home: str | os.PathLike[str]) -> Path:
    """Where the packs of `home` should be."""
    record = read_record(home)
    return Path(record.path) if record is not None and record.path else Path(home, "server", "store")


def open_store(home: Path, is_used: Callable[[], bool]) -> Path:
    """The folder of the home's packs, made the first time. `is_used`: whether something was stored already.

    Raises StoreAway, OSError.
    """
    folder = store_folder(home)
    record, mark = read_record(home), read_mark(folder)
    there = (folder / PACKS).is_dir()
    if mark is not None and record is not None and mark.store != record.store:
        raise StoreAway(f"{folder} holds the store of another home", f"see {home}/server/{NAME}")
    if mark is None and not there and (record is not None or is_used()):
        raise StoreAway(
            f"the store is not at {folder}: its disk is not mounted, or the folder was removed",
            f"mount the disk; where it is gone for good, make the folder {folder / PACKS}: "
            "what was saved before is then missing",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = (record.store if record else None) or (mark.store if mark else None) or uuid.uuid4().hex
    if mark is None or mark.state != "whole":
        write_mark(folder, Mark(known, "whole"))
    if record is None:
        write_record(home, Record(known))
    return folder


def read_record(home: str | os.PathLike[str]) -> Record | None:
    """None where no server has run here yet. Raises StoreAway where it cannot be read."""
    path = Path(home, "server", NAME)
    found = _read(path)
    if found is None:
        return None
    try:
        return Record(str(found["store"]), found.get("path"), found.get("old"))
    except (KeyError, AttributeError) as error:
        raise StoreAway(f"{path} does not say where the store is", "restore it, or remove it") from error


def write_record(home: str | os.PathLike[str], record: Record) -> None:
    _write(Path(home, "server", NAME), {"store": record.store, "path": record.path, "old": record.old})


def forget_old(home: str | os.PathLike[str]) -> None:
    """Nothing is left of the last move."""
    record = read_record(home)
    if record is not None:
        write_record(home, replace(record, old=None))


def read_mark(folder: Path) -> Mark | None:
    """None for a folder that is not marked, or not there."""
    found = _read(folder / NAME)
    state = _STATES.get(str(found.get("state"))) if found else None
    return Mark(str(found.get("store")), state) if found and state else None


def is_marked(folder: Path, mark: Mark | None) -> bool:
    """Whether the folder is still the store that had that mark, whatever moves it. One whose disk does not even read
    that is as good as not there."""
    try:
        found = read_mark(folder)
    except OSError:
        return False
    return found is not None and mark is not None and found.store == mark.store


def write_mark(folder: Path, mark: Mark) -> None:
    _write(folder / NAME, {"store": mark.store, "state": mark.state})


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> dict[str, str] | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            return json.loads(path.read_bytes())
        except ValueError:
            return {}
    return None


def _write(path: Path, content: object) -> None:
    """Whole or not at all, also after a power cut."""
    part = path.with_name(f"{PART}{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
