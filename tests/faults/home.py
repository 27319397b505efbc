"""A person's home with real processes: commands, the embedded server and the local runner, and what they left behind.

Every process of a home has the home's own folder in its environment, which is how survivors are found.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dstack import embedded
from dstack.client.api import Api, Unreachable
from dstack.client.frames import read_frames
from dstack.client.wire import ConnectFailed, SocketTransport, WireError

T = TypeVar("T")
DSTACK = Path(sys.executable).with_name("dstack")
DEADLINE = 90.0
"""Seconds until something that should happen at once is given up on: the machine may be very busy."""
POLL = 0.02

OPEN = {"planning", "waiting", "queued", "assigned", "starting", "running", "saving"}

PASSED = re.compile(r"PYTHONPATH|COVERAGE_\w+|COV_CORE_\w+")


class Home:
    """`root/repo` holds the workflows, `root/home` is DSTACK_HOME; use as a context."""

    def __init__(self, root: Path, **settings: str) -> None:
        self.root = root
        self.program = DSTACK
        self.repo = root / "repo"
        self.folder = root / "home"
        # Sockets need short paths.
        self._runtime = tempfile.mkdtemp(prefix="dstack-", dir="/tmp")
        passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
        self.environment = passed | {
            "PATH": f"{DSTACK.parent}:/usr/bin:/bin",
            "HOME": str(root),
            "DSTACK_HOME": str(self.folder),
            "XDG_RUNTIME_DIR": self._runtime,
            "LANG": "C.UTF-8",
            "DSTACK_SERVER_TICK": "0.2",
            "DSTACK_SERVER_STOP_GRACE": "5",
            "DSTACK_SERVER_HEARTBEAT": "1",
            "DSTACK_RUNNER_ORPHAN_EXIT": "60",
            "DSTACK_RUNNER_RETRY_LAST": "0.2",
        }
        self.environment |= settings
        self._commands: list[subprocess.Popen[bytes]] = []
        self.repo.mkdir(parents=True, exist_ok=True)
        (self.repo / ".dstack").mkdir()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(self.story())
        try:
            survivors = self._end()
        finally:
            shutil.rmtree(self._runtime, ignore_errors=True)
        if kind is None and survivors:
            raise AssertionError(f"left behind: {survivors}\n{self.story()}")

    # --- what a person does ------------------------------------------------------------------------------------

    def write(self, workflows: str) -> None:
        """The repository's workflows file."""
        (self.repo / ".dstack" / "workflows.yaml").write_text(workflows)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """`dstack WORDS`, in a session of its own, with both outputs captured."""
        process = subprocess.Popen(
            [self.program, *words],
            cwd=self.repo,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._commands.append(process)
        return process

    def types(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`dstack WORDS`, to its end, with exit code `code`."""
        return self.ends(self.start(*words), code)

    def ends(self, process: subprocess.Popen[bytes], code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Wait for a started command; None allows every exit code."""
        out, err = (data.decode(errors="replace") for data in process.communicate(timeout=DEADLINE))
        said = f"{process.args!r} ended with {process.returncode}:\n{out[-4000:]}\n{err[-4000:]}"
        assert code is None or process.returncode == code, said
        assert "Traceback" not in err, said
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def detached(self, *words: str) -> str:
        """Submit without following; the run's name."""
        return self.types("run", "-d", *words).stdout.strip()

    # --- what is there -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def api(self, patience: float = 10.0) -> Generator[Api]:
        """The server that runs; never starts one."""
        api = Api(self._connect, patience=patience)
        try:
            yield api
        finally:
            api.drop()

    def runs(self) -> list[Any]:
        with self.api() as api:
            return api.runs()

    def run(self, name: str) -> Any:
        with self.api() as api:
            return api.run(name)

    def job(self, name: str, job: str) -> Any:
        return next(item for item in self.run(name)["jobs"] if item["name"] == job)

    def log(self, name: str) -> dict[str, bytes]:
        """The whole log of each job of a run, as the server has it."""
        found: dict[str, bytes] = {}
        with self.api() as api:
            for frame, data in read_frames(api.logs(name)):
                if frame.get("t") == "log":
                    key = frame.get("job", "")
                    assert frame.get("offset") == len(found.get(key, b"")), "a gap in the stream"
                    found[key] = found.get(key, b"") + bytes(data)
        return found

    def wait(self, look: Callable[[], T | None], what: str, within: float = DEADLINE) -> T:
        """The first true value of `look`; it may fail for as long as the server is away."""
        deadline = time.monotonic() + within
        last: object = None
        while time.monotonic() < deadline:
            with contextlib.suppress(Unreachable, WireError, FileNotFoundError):
                last = look()
                if last:
                    return last
            time.sleep(POLL)
        raise AssertionError(f"not within {within:g} s: {what}; last seen: {last!r}")

    def wait_status(self, name: str, status: str, within: float = DEADLINE) -> Any:
        """The run `name` once it has that status."""

        def look() -> Any:
            run = self.run(name)
            if run["status"] not in OPEN and run["status"] != status:
                raise AssertionError(f"{name} is {run['status']}, not {status}: {run['reason_text']}")
            return run if run["status"] == status else None

        return self.wait(look, f"{name} is {status}", within)

    def wait_job(self, name: str, job: str, status: str) -> Any:
        """The job once it has that status."""

        def look() -> Any:
            found = self.job(name, job)
            return found if found["status"] == status else None

        return self.wait(look, f"job {job} of {name} is {status}")

    def wait_file(self, path: Path) -> str:
        """The text of a file once it has some."""
        return self.wait(path.read_text, f"{path} is written")

    # --- its processes -----------------------------------------------------------------------------------------

    def server(self) -> int:
        """Pid of the server that runs now; 0 when none does."""
        holder = embedded.read_holder(self.folder)
        return holder["pid"] if holder and embedded.is_locked(str(self.folder)) else 0

    def runner(self) -> int:
        """Pid of the runner that runs now; 0 when none does."""
        try:
            pid = int((self.folder / "runner" / "lock").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return pid if _command(pid).find(b"dstack.runner") >= 0 else 0

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of this home and, where it kills, wait until it is gone."""
        assert pid in self._processes(), f"process {pid} is not of this home"
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, number)
            if number == signal.SIGKILL:
                _wait_ended(descriptor, DEADLINE)
        finally:
            os.close(descriptor)

    def attempts(self) -> list[Path]:
        """Folders of attempts that the runner holds."""
        return sorted((self.folder / "runner" / "attempts").iterdir())

    def programs(self) -> dict[str, int]:
        """How many servers and runners of this home are alive."""
        found = Counter(
            _command(pid).split(b"\0")[2].decode() for pid in self._processes() if b"\0-m\0dstack." in _command(pid)
        )
        return dict(found)

    def socket(self) -> str:
        """Where a server of this home listens."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(self.folder))).hexdigest()[:16]
        return f"{self._runtime}/dstack-{name}/server.sock"

    def of_jobs(self) -> list[int]:
        """Pids of processes that jobs have started."""
        return [pid for pid in self._processes() if b"DSTACK_ATTEMPT_ID=" in _environ(pid)]

    def story(self) -> str:
        """The logs of server and runner, for a failed test."""
        parts: list[str] = []
        for path in (self.folder / "server/server.log", self.folder / "runner/runner.log"):
            with contextlib.suppress(OSError):
                parts.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-60:]))
        return "\n".join(parts)

    # --- the pieces --------------------------------------------------------------------------------------------

    def _connect(self) -> SocketTransport:
        holder = embedded.read_holder(self.folder)
        if holder is None:
            raise ConnectFailed("no server")
        transport = SocketTransport(holder["socket"])
        transport.connect()
        return transport

    def _processes(self) -> list[int]:
        """Live processes with this home in their environment."""
        mark = bytes(self.root)
        found: list[int] = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                environment = _environ(int(entry))
                values = (part.partition(b"=")[2] for part in environment.split(b"\0"))
                if any(value == mark or value.startswith(mark + b"/") for value in values):
                    found.append(int(entry))
        return found

    def _end(self) -> list[str]:
        """End commands, server and runner in order; what had to be killed besides."""
        for command in self._commands:
            if command.poll() is None:
                command.kill()
            command.communicate()
        # The server first: it would start another runner. One that was just started has not said so in its lock yet.
        for program in (b"dstack.server", b"dstack.runner"):
            for pid in self._processes():
                if program in _command(pid):
                    _end_in_order(pid)
        left: list[str] = []
        for pid in self._processes():
            left.append(f"{pid} {_command(pid).replace(bytes(1), b' ').decode(errors='replace')[:200]}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def _end_in_order(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        _wait_ended(descriptor, 30)
    finally:
        os.close(descriptor)


def _wait_ended(descriptor: int, within: float) -> None:
    import select

    select.select([descriptor], [], [], within)


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def hits(log: Path) -> set[str]:
    """Names of the fault points that were reached."""
    return set(log.read_text().split()) if log.exists() else set()


def each(lines: str) -> Iterator[str]:
    """The numbered lines of a job, without the job's name before them."""
    for line in lines.splitlines():
        yield line.rpartition("| ")[2]


def assert_lines(text: str, expected: list[str]) -> None:
    """Every line once and in order; says which are not."""
    found = text.splitlines()
    if found != expected:
        lost = [line for line in expected if line not in set(found)]
        strange = [line for line in found if line not in set(expected)]
        doubled = [line for line, count in Counter(found).items() if count > 1]
        raise AssertionError(
            f"{len(found)} lines instead of {len(expected)}; "
            f"lost {lost[:9]}, doubled {doubled[:9]}, strange {strange[:9]}"
        )


class Gated:
    """A job that prints lines 1 to 100, waits until it is let go, prints 101 to 200 and ends."""

    def __init__(self, home: Home, *, ends: str = "exit 0", artifacts: str = "[]") -> None:
        self.folder = home.root / "gate"
        self.folder.mkdir(exist_ok=True)
        self._home = home
        home.write(f"""\
workflows:
  - name: gated
    provider: bash
    artifacts: {artifacts}
    commands:
      - for i in $(seq 100); do echo "line $i"; done
      - echo $$ >> {self.folder}/begun
      - until [ -e {self.folder}/go ]; do sleep 0.02; done
      - for i in $(seq 101 200); do echo "line $i"; done
      - echo ended >> {self.folder}/ended
      - {ends}
""")

    def begun(self) -> int:
        """Wait until the job has begun; the pid of its shell."""
        return int(self._home.wait_file(self.folder / "begun"))

    def go(self) -> None:
        """Let it end."""
        (self.folder / "go").touch()

    def ended(self) -> None:
        """Wait until it has printed everything."""
        self._home.wait_file(self.folder / "ended")

    def assert_ran_once(self) -> None:
        """One process printed everything."""
        assert len((self.folder / "begun").read_text().split()) == 1
        assert (self.folder / "ended").read_text() == "ended\n"


LINES = [f"line {number}" for number in range(1, 201)]
"""What a gated job prints."""
