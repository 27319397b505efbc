"""What people would use instead: how each is installed, and its quickest documented way to do what a row measures."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import graphs
from benchmarks.measure import Case, check
from benchmarks.ours import ROOT, SLOTS, plain_environment, write

Shape = Literal["hello", "fan", "chain", "lines"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool in an environment of its own under `folder`."""

    name: str
    environment: Path
    variables: dict[str, str]
    command: Callable[[Path], list[str | os.PathLike[str]]]
    """The command line, given the folder with the environment's programs."""
    files: Callable[[Shape, int], graphs.Files]
    prepare: Callable[[Path, Path, Mapping[str, str]], object] = lambda programs, cwd, variables: None
    """Done once per folder of work."""
    clean: tuple[str, ...] = ()
    """Removed before each run, so that nothing is skipped as done already."""
    largest_fan: int = 100
    """With more steps this one takes minutes."""

    def case(self, shape: Shape, steps: int, scratch: Path) -> Case:
        cwd = write(scratch / f"{self.name}-{shape}-{steps}", self.files(shape, steps))
        variables = plain_environment(scratch / "home") | self.variables
        programs = self.environment / "bin"
        variables["PATH"] = f"{programs}:{variables['PATH']}"
        self.prepare(programs, cwd, variables)
        return Case(
            self.name,
            self.command(programs),
            cwd,
            variables,
            awaited=graphs.HELLO.encode() if shape == "hello" else None,
            before=lambda: [shutil.rmtree(cwd / name, ignore_errors=True) for name in self.clean],
            repeats=None if shape == "hello" else 1,
        )

    def help_case(self, scratch: Path) -> Case:
        program = self.environment / "bin" / self.name
        return Case(self.name, [program, "--help"], scratch, plain_environment(scratch / "home") | self.variables)


def dvc(folder: Path) -> Peer:
    def prepare(programs: Path, cwd: Path, variables: Mapping[str, str]) -> None:
        if not (cwd / ".dvc").exists():
            check(["git", "init", "--quiet"], cwd, variables)
            check([programs / "dvc", "init", "--quiet"], cwd, variables)

    return Peer(
        "dvc",
        folder / "dvc",
        {"DVC_NO_ANALYTICS": "1", "CI": "1"},
        lambda programs: [programs / "dvc", "repro", "--force"],
        _choose(graphs.dvc_hello, graphs.dvc_fan, graphs.dvc_chain, graphs.dvc_lines),
        prepare,
    )


def metaflow(folder: Path) -> Peer:
    return Peer(
        "metaflow",
        folder / "metaflow",
        {"USERNAME": "bench", "METAFLOW_DEFAULT_METADATA": "local", "METAFLOW_DEFAULT_DATASTORE": "local"},
        lambda programs: [
            programs / "python",
            "flow.py",
            "--no-pylint",
            "run",
            "--max-workers",
            str(SLOTS),
            "--max-num-splits",
            "1000",
        ],
        _choose(graphs.metaflow_hello, graphs.metaflow_fan, graphs.metaflow_chain, graphs.metaflow_lines),
        clean=(".metaflow",),
    )


def snakemake(folder: Path) -> Peer:
    return Peer(
        "snakemake",
        folder / "snakemake",
        {},
        lambda programs: [programs / "snakemake", "--cores", str(SLOTS), "--quiet", "all"],
        _choose(graphs.snakemake_hello, graphs.snakemake_fan, graphs.snakemake_chain, graphs.snakemake_lines),
        clean=("done", ".snakemake"),
        largest_fan=1000,
    )


def prefect(folder: Path) -> Peer:
    return Peer(
        "prefect",
        folder / "prefect",
        {
            "PREFECT_API_URL": f"http://127.0.0.1:{_PREFECT_PORT}/api",
            "PREFECT_HOME": str(folder / "prefect-home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        },
        lambda programs: [programs / "python", "flow.py"],
        _choose(graphs.prefect_hello, graphs.prefect_fan, graphs.prefect_chain, graphs.prefect_lines),
        largest_fan=1000,
    )


ALL: tuple[Callable[[Path], Peer], ...] = (dvc, metaflow, snakemake, prefect)


def install(peer: Peer) -> None:
    """Install the newest version of a peer, from wherever pip is set up to fetch packages."""
    if (peer.environment / "installed").exists():
        return
    shutil.rmtree(peer.environment, ignore_errors=True)
    plain = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    check([ROOT / ".venv" / "bin" / "python", "-m", "venv", peer.environment], ROOT, plain)
    check([peer.environment / "bin" / "pip", "install", "--quiet", peer.name], ROOT, plain)
    (peer.environment / "installed").touch()


class PrefectServer:
    """Prefect's own server, on loopback, as a context."""

    def __init__(self, peer: Peer, scratch: Path) -> None:
        self._command = [peer.environment / "bin" / "prefect", "server", "start", "--host", "127.0.0.1"]
        self._environment = plain_environment(scratch / "home") | peer.variables
        self._log = scratch / "prefect-server.log"

    def __enter__(self) -> int:
        """Start it; answers with its process id when it is ready. Raises TimeoutError."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(_PREFECT_PORT)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{_PREFECT_PORT}/api/health", timeout=2):
                    return self._process.pid
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise TimeoutError(f"prefect's server did not start: {self._log.read_text()[-1000:]}")

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()


def _choose(
    hello: Callable[[], graphs.Files], *sized: Callable[[int], graphs.Files]
) -> Callable[[Shape, int], graphs.Files]:
    """The function for a shape; `sized` are those of `fan`, `chain` and `lines`."""
    shapes: tuple[Shape, ...] = ("fan", "chain", "lines")
    by_shape = dict(zip(shapes, sized, strict=True))
    return lambda shape, size: hello() if shape == "hello" else by_shape[shape](size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_PREFECT_PORT = _free_port()
