"""What `dstack doctor` looks at: each check is a function that says what it found, and what to do where that is bad."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import dstack
from dstack.cli.errors import UserError
from dstack.cli.render import count, size_words
from dstack.cli.session import Session, connect_to
from dstack.client.environment import find_python
from dstack.client.git import git_folder
from dstack.client.profiles import config_path
from dstack.client.repository import find_root
from dstack.client.wire import WireError
from dstack.embedded import EmbeddedError, make_socket_folder, read_holder, socket_path
from dstack.embedded.store_place import PACKS, read_mark, read_record, store_folder

Status = Literal["ok", "note", "problem"]
LITTLE = 1 << 30
"""Bytes: with less, the first environment with PyTorch does not fit."""
COMFORTABLE = 10 << 30
APART = 5.0
"""Seconds that two clocks may differ."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found. `note`: nothing is broken, but whoever wonders may want to know."""

    name: str
    status: Status
    text: str
    fix: str = ""


def check_all(session: Session, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Every check, in the order in which things build upon each other."""
    found = [check_python(session.home), check_git(), *check_home(session.home), check_socket(session.home)]
    if session.connector is not None:
        found += check_store(session.home)
    found += [*check_server(session), check_clock(session), *check_proxies(environ)]
    machine = ask_machine()
    if machine is None:
        text = "`python -m dstack.runner.check` failed"
        return [*found, Check("machine", "problem", text, f"reinstall dstack into {sys.prefix}")]
    found += [check_uv(machine), check_index(machine), check_capacity(machine), check_gpus(machine)]
    return [*found, *check_inputs(machine)]


def check_python(home: str) -> Check:
    own = ".".join(map(str, sys.version_info[:3]))
    told = f"dstack {dstack.__version__} runs on Python {own} of {sys.prefix}"
    shell = find_python(f"{home}/cli/pythons.json", folder=os.getcwd())
    if shell is None:
        fix = "jobs without `version` need one; install Python 3, or activate an environment"
        return Check("python", "problem", f"{told}; this shell has no working `python3`", fix)
    kind = _kind_of(shell["path"])
    return Check(
        "python", "ok", f"{told}; jobs use {shell['version']} of {shell['path']}{kind} unless they say otherwise"
    )


def _kind_of(path: str) -> str:
    folder = os.path.dirname(os.path.dirname(path))
    if os.path.isdir(f"{folder}/conda-meta"):
        return " (conda)"
    return " (a virtual environment)" if os.path.isfile(f"{folder}/pyvenv.cfg") else ""


def check_git() -> Check:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        root = find_root()
        within = root is not None and git_folder(root) is not None
        why = "not found" if isinstance(error, FileNotFoundError) else f"does not work: {error}"
        fix = "install git: without it all files of a repository are sent, also those that a .gitignore names"
        return Check("git", "problem" if within else "note", why, fix)
    return Check("git", "ok", done.stdout.strip().removeprefix("git version "))


def check_home(home: str) -> list[Check]:
    """Whether the home can be written, is private, and has room."""
    there = home
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.access(there, os.W_OK | os.X_OK):
        return [Check("home", "problem", f"{home} cannot be written", "set DSTACK_HOME to a folder of yours")]
    found = [Check("home", "ok", home)]
    profiles = config_path(home)
    if os.path.exists(profiles) and os.stat(profiles).st_mode & 0o077:
        found.append(Check("profiles", "problem", f"{profiles} can be read by others", f"chmod 600 {profiles}"))
    free = shutil.disk_usage(there).free
    status: Status = "problem" if free < LITTLE else "note" if free < COMFORTABLE else "ok"
    fix = "free some, or set DSTACK_HOME to a larger disk; `dstack du` shows what takes space" if status != "ok" else ""
    found.append(Check("disk", status, f"{size_words(free)} free at {there}", fix))
    skew = _file_clock(there)
    if skew is not None and abs(skew) > 1.0:
        text = f"times of files at {there} are {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        found.append(Check("file clock", "problem", text, "set the clocks of this machine and of its file server"))
    return found


def _file_clock(folder: str) -> float | None:
    """Seconds by which the file system's clock is ahead of ours; None where no file can be made."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            return os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return None


def check_socket(home: str) -> Check:
    """Whether a server could listen where this home's does."""
    path = socket_path(home)
    holder = read_holder(home)
    if holder is not None and os.path.exists(holder["socket"]):
        mode = os.stat(holder["socket"]).st_mode
        if not stat.S_ISSOCK(mode):
            return Check("socket", "problem", f"{holder['socket']} is no socket", f"remove {holder['socket']}")
        return Check("socket", "ok", holder["socket"])
    trial = f"{path[: -len('server.sock')]}trial.sock"
    try:
        make_socket_folder(trial)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(trial)
        os.unlink(trial)
    except EmbeddedError as error:
        return Check("socket", "problem", error.message, error.hint or "")
    except OSError as error:
        fix = "set XDG_RUNTIME_DIR, or DSTACK_HOME, to a folder on a local disk"
        return Check("socket", "problem", f"no socket can be made in {os.path.dirname(path)}: {error.strerror}", fix)
    return Check("socket", "ok", f"{path} (nobody listens there now)")


def check_store(home: str) -> list[Check]:
    """Whether the packs are where they should be, and have room, where that is another disk than the home's."""
    try:
        record, folder = read_record(home), store_folder(home)
        if record is None:
            return []
        mark = read_mark(folder)
    except EmbeddedError as error:
        return [Check("store", "problem", error.message, error.hint or "")]
    except OSError as error:
        return [Check("store", "problem", f"{error.filename}: {error.strerror}", "mount its disk")]
    if mark is None and not (folder / PACKS).is_dir():
        return [Check("store", "problem", f"the store is not at {folder}", "mount its disk, or put the folder back")]
    if mark is not None and mark.store != record.store:
        return [Check("store", "problem", f"{folder} holds the store of another home", f"see {home}/server/store.json")]
    free = shutil.disk_usage(folder).free
    status: Status = "problem" if free < LITTLE else "note" if free < COMFORTABLE else "ok"
    fix = "see what can go: dstack du, dstack gc; or move it: dstack server move-store" if status != "ok" else ""
    found = [Check("store", status, f"{size_words(free)} free at {folder}", fix)]
    if record.old is not None:
        fix = f"dstack server move-store {folder}"
        found.append(Check("old store", "note", f"packs that were moved still lie at {record.old}", fix))
    return found


def check_server(session: Session) -> list[Check]:
    """The server that commands use; a local one is not started for this."""
    if session.connector is None:
        where = f"{session.address}, by {session.target.origin}"
        try:
            status, _, info = _ask_server(session)
        except (WireError, UserError, ValueError) as error:
            return [Check("server", "problem", f"{where}: {error}", "check the address, the network and the token")]
        if status != 200:
            told = info.get("error", {}).get("message", f"HTTP {status}")
            return [Check("server", "problem", f"{where}: {told}", "check the token: dstack config")]
        return [Check("server", "ok", f"{where}: dstack {info.get('version')}")]
    try:
        transport = session.connector.find()
    except EmbeddedError as error:
        return [Check("server", "problem", error.message, error.hint or "")]
    if transport is None:
        return [Check("server", "ok", "none runs; the next command that needs one starts it")]
    try:
        info = json.loads(transport.request("GET", "/api/v1/info", timeout=10).read())
    except (WireError, ValueError) as error:
        return [Check("server", "problem", f"it does not answer: {error}", "dstack server stop")]
    finally:
        transport.close()
    runners = info.get("runners", [])
    text = f"process {info.get('pid')}, dstack {info.get('version')}, {count(len(runners), 'runner')} online"
    return [Check("server", "ok", text)]


def _ask_server(session: Session) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    """Status, headers and content of what a server that is not this home's says of itself."""
    transport = connect_to(session.target)()
    try:
        answer = transport.request("GET", "/api/v1/info", timeout=10)
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        transport.close()


def check_clock(session: Session) -> Check:
    """This machine's clock against the server's, where that is another machine's."""
    now = time.time()
    if now < _installed_at():
        return Check("clock", "problem", f"it says {time.strftime('%Y-%m-%d')}", "set the clock of this machine")
    if session.connector is not None:
        return Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    try:
        theirs = parsedate_to_datetime(_ask_server(session)[1]["date"]).timestamp()
    except (WireError, UserError, KeyError, ValueError):
        return Check("clock", "note", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}; the server's is not known")
    apart = theirs - time.time()
    if abs(apart) <= APART:
        return Check("clock", "ok", "like the server's")
    text = f"{abs(apart):.0f} s {'behind' if apart > 0 else 'ahead of'} the server's"
    return Check("clock", "problem", text, "set the clock of this machine; tokens and `--since` depend on it")


def _installed_at() -> float:
    """A time that no correct clock is before: this version was installed then, give or take a time zone."""
    return os.stat(dstack.__file__).st_mtime - 86400


def check_proxies(environ: Mapping[str, str]) -> list[Check]:
    """The variables that programs find a proxy by: set to what they cannot read, or twice and differently."""
    found: list[Check] = []
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        upper, lower = environ.get(name), environ.get(name.lower())
        value = lower or upper
        if not value:
            continue
        if upper and lower and upper != lower:
            text = f"{name} and {name.lower()} differ: programs do not agree on which one counts"
            found.append(Check("proxy", "problem", text, f"unset one of them, in the shell's start-up file: {name}"))
        parts = urlsplit(value)
        shown = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if _port(value) else ''}"
        if parts.scheme not in ("http", "https", "socks5", "socks5h", "socks4") or not parts.hostname:
            fix = f"write {name}=http://HOST:PORT"
            found.append(Check("proxy", "problem", f"{name} is no address of a proxy", fix))
        else:
            found.append(Check("proxy", "note", f"{name} leads through {shown}; it goes along with jobs"))
    return found


def _port(value: str) -> int | None:
    try:
        return urlsplit(value).port
    except ValueError:
        return None


def ask_machine() -> dict[str, Any] | None:
    """What `dstack.runner.check` says of this machine: a program of its own, as the runner is."""
    command = [sys.executable, "-m", "dstack.runner.check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def check_uv(machine: Mapping[str, Any]) -> Check:
    uv = machine.get("uv")
    if uv is None:
        fix = f"it comes with dstack: {sys.executable} -m pip install uv"
        return Check("uv", "problem", "not found, so no job with `requirements` or `version` can run", fix)
    versions = ", ".join(machine.get("pythons", [])) or "none"
    return Check("uv", "ok", f"{uv['version']} at {uv['path']}; Pythons for jobs: {versions}")


def check_index(machine: Mapping[str, Any]) -> Check:
    index = machine.get("index")
    if index is None:
        return Check("packages", "problem", "not looked for without uv", "see above")
    where = index["where"] or "uv's default index"
    if index["offline"]:
        return Check(
            "packages", "note", f"your settings allow no index; packages come from {index['where'] or 'nowhere'}"
        )
    if index["ok"]:
        return Check("packages", "ok", f"found by {where}")
    fix = "check the network, the proxy, and PIP_INDEX_URL or UV_DEFAULT_INDEX"
    return Check("packages", "problem", f"not found by {where}: {index['detail'][:400]}", fix)


def check_capacity(machine: Mapping[str, Any]) -> Check:
    return Check("machine", "ok", f"{count(machine['cpus'], 'CPU')}, {size_words(machine['memory'])} for jobs")


def check_gpus(machine: Mapping[str, Any], devices: Callable[[], list[str]] | None = None) -> Check:
    cards = machine.get("gpus", [])
    if cards:
        return Check("gpu", "ok", ", ".join(f"{card['name']} {size_words(card['memory'])}" for card in cards))
    present = (devices or _nvidia_devices)()
    if present:
        text = f"{present[0]} is there, and neither nvidia-smi nor NVML finds a card"
        return Check("gpu", "problem", text, "install the NVIDIA driver that fits the kernel, and try: nvidia-smi")
    return Check("gpu", "note", "none: jobs that ask for one fail at once here")


def check_inputs(machine: Mapping[str, Any]) -> list[Check]:
    """How large inputs reach jobs; nothing before the first run."""
    found = machine.get("inputs")
    if found is None:
        return []
    if found["way"] == "reflink":
        text = "large ones share their blocks with the runner's cache, so no bytes are copied"
    elif found["way"] == "overlay":
        text = "working copies are laid over the runner's cache of large ones, so no bytes are copied"
    else:
        why = found["why"] or "DSTACK_RUNNER_INPUTS_WAY says so"
        fix = "with DSTACK_HOME on btrfs or XFS, or as root on Linux, they would not be"
        return [Check("inputs", "note", f"the bytes of each are copied for each job: {why}", fix)]
    return [Check("inputs", "ok", text)]


def _nvidia_devices() -> list[str]:
    try:
        return sorted(f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit())
    except OSError:
        return []
