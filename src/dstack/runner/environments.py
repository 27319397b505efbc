"""The Python a job runs with: the submitting shell's own, or a uv environment made for its version and requirements.

An environment lives in `root/<key>`, where the key is the BLAKE3 of everything that defines it, and is made once; the
second job that needs it finds it by reading its own requirement files and looking for one marker file. Environments
do not move, so one is built in place and counts only once its marker was renamed into it.
What may change under an unchanged description (`-e`, unpinned git, local folders) goes into `root/attempt-<id>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import blake3

from dstack.runner import package_index, pythons, requirement_lines
from dstack.runner.kept import FROZEN, KeptEnvironments, Limits, own_key
from dstack.runner.requirement_lines import Requirements, RequirementsError
from dstack.runner.threads import whole
from dstack.sdk.provider import PythonEnv

_FORMAT = b"1"
"""Goes into every key: raise it when environments are to be built differently."""
NO_MORE_THAN = Limits()


class SetupError(Exception):
    """The environment cannot be had; the text says what failed, where, and what to do.

    `said` is the same for the job's log, where that has the words of whoever failed already.
    """

    def __init__(self, text: str, said: str = "") -> None:
        super().__init__(text)
        self.said = said or text


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`path` runs the job's Python; `bin_dir` goes first on its PATH. `key` is empty for the shell's own Python.

    `venv` is the environment's folder (for VIRTUAL_ENV), where it is ours.
    """

    path: Path
    bin_dir: Path
    key: str = ""
    venv: Path | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What one attempt needs. `environment` is the job's own: PATH, HOME, proxies and index settings are read from it.

    `shell_python` is the first `python3` of the submitting shell, by path; `shell_version` is for other hosts.
    """

    attempt_id: UUID
    spec: PythonEnv | None
    code_root: Path
    environment: Mapping[str, str]
    shell_python: str | None = None
    shell_version: str | None = None


class EnvironmentManager:
    """Makes and finds environments below `root`. `uv` None: the one dstack came with."""

    def __init__(self, root: Path, uv: Path | None = None, limits: Limits = NO_MORE_THAN) -> None:
        self.kept = KeptEnvironments(root, limits)
        self._uv = uv

    async def prepare(self, order: Order, on_output: Callable[[bytes], None]) -> Interpreter:
        """The interpreter for `order`; what uv prints goes to `on_output`. Raises SetupError.

        The environment is held for the attempt until `kept.release`. Cancelling it ends uv; what was half built is
        built anew the next time.
        """
        spec = order.spec or PythonEnv()
        shell_python = _shell_python(order)
        if shell_python and not spec.version and not spec.requirements:
            return Interpreter(shell_python, shell_python.parent)
        environment = package_index.uv_environment(order.environment)
        try:
            requirements = requirement_lines.read(spec.requirements, order.code_root)
        except RequirementsError as error:
            raise SetupError(str(error)) from error
        wanted = self._wanted_python(spec, order)
        key = _key(wanted, requirements, environment) if requirements.shared else own_key(order.attempt_id)
        self.kept.hold(order.attempt_id, key)  # before the look: what is held is not removed
        found = self._whole(key)
        if found is not None:
            self.kept.touch(key)
            return found
        async with self.kept.locked(key):
            return self._whole(key) or await self._build(key, wanted, requirements, order, environment, on_output)

    def _wanted_python(self, spec: PythonEnv, order: Order) -> str:
        """A version such as `3.11`, or the path of the shell's interpreter where that is on this host."""
        shell_python = _shell_python(order)
        parts = spec.version.split(".") if spec.version else []
        if shell_python and parts == (order.shell_version or "").split(".")[: len(parts)]:
            return os.path.realpath(shell_python)
        if spec.version:
            return spec.version
        version = order.shell_version or platform.python_version()
        return ".".join(version.split(".")[:2])

    def _whole(self, key: str) -> Interpreter | None:
        if not self.kept.is_whole(key):
            return None
        venv = self.kept.root / key
        return Interpreter(venv / "bin" / "python", venv / "bin", key, venv)

    async def _build(
        self,
        key: str,
        wanted: str,
        requirements: Requirements,
        order: Order,
        environment: dict[str, str],
        on_output: Callable[[bytes], None],
    ) -> Interpreter:
        venv = self.kept.root / key
        await whole(shutil.rmtree, venv, ignore_errors=True)
        uv = _Uv(self._uv or find_uv(), environment, order.code_root, on_output)
        base = await _base_python(uv, wanted, order)
        code, message = await uv.run("venv", "--no-project", "--python", base, str(venv), show=False)
        if code != 0:
            raise SetupError(f"the Python environment could not be made with {base}: {_brief(message)}")
        target = ("--python", str(venv / "bin" / "python"))
        if requirements.arguments:
            options = package_index.install_options(environment)
            code, message = await uv.run("pip", "install", *target, *options, *requirements.arguments)
            if code != 0:
                await whole(shutil.rmtree, venv, ignore_errors=True)
                raise _install_failure(message, requirements)
        frozen = await uv.output("pip", "freeze", *target) if requirements.arguments else b""
        (venv / FROZEN).write_bytes(frozen)
        facts = {"python": base, "wanted": wanted, "requirements": requirements.arguments}
        await self.kept.complete(key, facts)
        found = self._whole(key)
        assert found is not None
        return found


class _Uv:
    """Runs uv with one attempt's settings."""

    def __init__(
        self, program: Path, environment: Mapping[str, str], folder: Path, on_output: Callable[[bytes], None]
    ) -> None:
        self._program = program
        self._folder = folder
        self._on_output = on_output
        self._environment = {
            "UV_PYTHON_DOWNLOADS": "never",  # a version that is not here is the user's to install, or to correct
            **{name: value for name, value in environment.items() if name not in ("VIRTUAL_ENV", "UV_PYTHON")},
            "UV_NO_PROGRESS": "1",
        }

    async def run(self, *arguments: str, show: bool = True) -> tuple[int, str]:
        """Exit code and all output, which is shown in the job's log too unless `show` is False."""
        process = await _whole(self._start(*arguments, stderr=asyncio.subprocess.STDOUT))
        output = bytearray()
        assert process.stdout is not None
        try:
            shown = 0
            while data := await process.stdout.read(65536):
                output += data
                whole = output.rfind(b"\n") + 1
                if show and whole > shown:
                    self._on_output(bytes(output[shown:whole]))
                    shown = whole
            if show and len(output) > shown:
                self._on_output(bytes(output[shown:]) + b"\n")
            return await process.wait(), output.decode(errors="replace")
        finally:
            await _end(process)

    async def output(self, *arguments: str) -> bytes:
        """Standard output of a call that must succeed; empty when it does not."""
        process = await _whole(self._start(*arguments, stderr=asyncio.subprocess.DEVNULL))
        try:
            return (await process.communicate())[0]
        finally:
            await _end(process)

    async def _start(self, *arguments: str, stderr: int) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                str(self._program),
                *arguments,
                cwd=self._folder,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                process_group=0,  # a group of its own, to be ended as one, in our session: it is no job's
            )
        except OSError as error:
            raise SetupError(f"uv cannot be run ({self._program}: {error.strerror}); reinstall dstack") from error


def find_uv() -> Path:
    """The uv of this environment, else the first on the PATH. Raises SetupError when there is none."""
    beside = Path(sys.executable).parent / "uv"
    path = str(beside) if beside.exists() else shutil.which("uv")
    if path is None:
        raise SetupError("uv was not found beside this Python or on the PATH; reinstall dstack, which brings it along")
    return Path(path)


async def _base_python(uv: _Uv, wanted: str, order: Order) -> str:
    """The interpreter to build on. Raises SetupError that names those present."""
    if "/" in wanted:
        return wanted
    found = pythons.find(wanted, order.environment)
    if found is not None:
        return str(found)
    asked = (await uv.output("python", "find", "--no-project", "--system", wanted)).decode().strip()
    if asked:
        return asked
    present = ", ".join(pythons.minor_versions(order.environment))
    where = f"{order.spec.asked_at}: " if order.spec is not None and order.spec.asked_at else ""
    raise SetupError(
        f"{where}Python {wanted} is not installed on this machine; present: {present or 'none'}. "
        f"Install it (for example `uv python install {wanted}`) or set `version` to one that is present"
    )


def _shell_python(order: Order) -> Path | None:
    """The submitting shell's interpreter, where it is on this host."""
    path = Path(order.shell_python) if order.shell_python else None
    return path if path and path.exists() else None


@functools.cache
def _platform() -> bytes:
    return f"{sys.platform} {platform.machine()} {' '.join(platform.libc_ver())}".encode()


def _key(wanted: str, requirements: Requirements, environment: Mapping[str, str]) -> str:
    identity = wanted
    if "/" in wanted:
        stat = os.stat(wanted)
        identity = f"{wanted} {stat.st_size} {stat.st_mtime_ns}"
    parts = [_FORMAT, identity.encode(), _platform()]
    parts += requirements.material
    parts += (part.encode() for part in package_index.key_material(environment))
    digest = blake3.blake3()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest(32)[:32]


def _install_failure(message: str, requirements: Requirements) -> SetupError:
    named = requirement_lines.named_in(message, requirements)
    where = f": {', '.join(named[:3])}" if named else ""
    what, advice = f"the requirements could not be installed{where}", _advice(message)
    return SetupError(f"{what}. uv says: {_brief(message)}. {advice}", f"{what}. {advice}")


def _advice(message: str) -> str:
    text = message.lower()
    if "network was disabled" in text or "uv_offline" in text:
        return "The network is switched off (UV_OFFLINE); switch it on, or point UV_FIND_LINKS at a folder of wheels"
    if any(word in text for word in ("dns error", "connect", "timed out", "certificate", "failed to fetch")):
        return "Check the network, the proxy and the package index settings (PIP_INDEX_URL or UV_DEFAULT_INDEX)"
    if "no space left" in text:
        return "The disk is full; free some space and run it again"
    if "was not found" in text:
        return "Check the spelling, and that the package index in use has it"
    if "failed to build" in text:
        return "It has no wheel for this Python and building it failed; see the output above"
    return "See the output above"


def _brief(message: str) -> str:
    """uv's own words in one line: from its first error on, without hints and marks."""
    lines = [line.strip().lstrip("×│╰─▶ ").strip() for line in message.splitlines()]
    begin = next((index for index, line in enumerate(lines) if line.startswith(("error:", "No solution"))), 0)
    words = " ".join(line for line in lines[begin : begin + 6] if line and not line.startswith("hint:"))
    return re.sub(r"\s*cause:\s*", ": ", words.removeprefix("error:").strip())[:600].rstrip(".") or "nothing"


async def _whole(starting: Coroutine[None, None, asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """Start a process, or, when cancelled meanwhile, end it with all it may have started already."""
    task = asyncio.ensure_future(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _end(await task)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """End uv and what it started, when it still runs (the attempt was cancelled)."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
