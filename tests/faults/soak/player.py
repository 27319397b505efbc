"""What the soak does: commands of a person, and kills, in an order that a seed decides.

Whatever died when: every snapshot that is listed comes back with files that its writer had written, the last snapshot
of a writer that ended by itself with exactly its files, and at the end the whole store is sound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.home import Home
from tests.faults.stored import assert_whole_store

WORKFLOWS = """\
workflows:
  - name: writer
    provider: bash
    artifacts: [out]
    retry: {{on: [runner-lost], max: 2}}
    commands:
      - exec python3 writer.py {ledger} "${{{{ seed }}}}" "${{{{ seconds }}}}"
"""
VARIABLES = "variables:\n  writer:\n    seed: 0\n    seconds: 1\n"
OPEN_RUNS = 3
KEPT_RUNS = 12
SETTINGS = {
    "DSTACK_SERVER_GC_ASKED_TO": "1",
    "DSTACK_SERVER_GC_CONDEMNED": "30",
    "DSTACK_SERVER_HEARTBEAT": "1",
    "DSTACK_SERVER_LOST_AFTER_RETRY": "60",
    "DSTACK_RUNNER_QUIET_PERIOD": "0.3",
    "DSTACK_RUNNER_MAX_INTERVAL": "2",
    "DSTACK_RUNNER_SAVE_RETRY": "0.5",
}
FINISHED = ("done", "failed", "stopped")
Say = Callable[[str], None]


class Player:
    """One soak in `folder`. `grace`: seconds for which gc leaves what was saved; no save may take longer."""

    def __init__(self, folder: Path, seed: int, say: Say, *, grace: float = 120.0) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._say = say
        self._began = time.monotonic()
        self._folder = folder
        self._ledger = folder / "ledger"
        self._ledger.mkdir(parents=True)
        self._gone: set[str] = set()
        self._follows: dict[str, str] = {}
        """Runs that began with what others had saved."""
        self.counts: dict[str, int] = {}
        self._home = Home(folder, **SETTINGS, DSTACK_SERVER_GC_GRACE=str(grace))

    def play(self, seconds: float) -> None:
        """Raises AssertionError where something was lost."""
        home = self._home
        home.write(WORKFLOWS.format(ledger=self._ledger))
        (home.repo / ".dstack" / "variables.yaml").write_text(VARIABLES)
        shutil.copy(Path(__file__).with_name("writer.py"), home.repo)
        self._tell(f"seed {self._seed}, {seconds:g} s, in {self._folder}")
        acts = {
            self.submit: 6, self.kill_server: 3, self.kill_runner: 2, self.kill_job: 2, self.restore: 6,
            self.collect: 2, self.check: 1, self.delete: 1, self.restart: 1, self.stop: 1, self.wait: 6,
            self.move_store: 0.3,
        }  # fmt: skip
        with home:
            self.submit()
            while time.monotonic() - self._began < seconds:
                [act] = self._random.choices(list(acts), list(acts.values()))
                self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
                act()
            self._finish()

    def clear(self) -> None:
        shutil.rmtree(self._folder)

    # --- what a person does ------------------------------------------------------------------------------------

    def submit(self) -> None:
        if sum(run["status"] not in FINISHED for run in self._runs()) >= OPEN_RUNS:
            self.wait()
            return
        seconds = self._random.choice([0.5, 2, 5, 12])
        done = self._do("run", "-d", "writer", "--seed", str(self._random.randrange(10**6)), "--seconds", str(seconds))
        self._tell(f"submitted {done.stdout.strip() or 'perhaps: ' + _last(done)}")

    def restart(self) -> None:
        run = self._pick(lambda run: run["status"] in ("failed", "stopped"))
        if run is not None:
            done = self._do("restart", "-d", run["name"])
            self._tell(f"restarted {run['name']} as {done.stdout.strip() or 'nothing: ' + _last(done)}")

    def stop(self) -> None:
        run = self._pick(lambda run: run["status"] not in FINISHED)
        if run is not None:
            self._do("stop", run["name"])
            self._tell(f"stopped {run['name']}")

    def delete(self) -> None:
        finished = [run for run in self._runs() if run["status"] in FINISHED]
        if len(finished) > KEPT_RUNS:
            name = self._random.choice(finished)["name"]
            self._do("rm", "-y", name)
            self._gone.add(name)
            self._tell(f"deleted {name}")

    def collect(self) -> None:
        done = self._do("gc", "-y")
        self._tell(f"collected: {_last(done)}")

    def check(self) -> None:
        done = self._do("verify", "--all")
        # 2: the server was killed meanwhile; or the command itself was.
        assert done.returncode in (0, 2, -signal.SIGKILL), f"verify: {done.stdout}{done.stderr}"
        self._tell(f"checked: {_last(done)}")

    def restore(self) -> None:
        """The newest snapshot of a run, or one of before."""
        run = self._pick(lambda run: bool(run["jobs"] and run["jobs"][0]["artifacts"]))
        if run is None:
            return
        name, newest = run["name"], self._random.random() < 0.6
        source = name if newest else f"{name}@{self._random.choice(self._snapshots(name) or [''])}"
        target = self._folder / "restored"
        done = self._do("artifacts", "download", source, "-o", str(target))
        if done.returncode == 0:
            number = self._assert_written(name, target / "out", source)
            self._tell(f"restored {source}: {number} files")
        else:
            self._tell(f"not restored {source}: {_last(done)}")
        shutil.rmtree(target, ignore_errors=True)

    def move_store(self) -> None:
        """There, or back."""
        here, there = self._folder / "home" / "server" / "store", self._folder / "elsewhere"
        done = self._do("server", "move-store", str(there if here.is_dir() else here))
        self._tell(f"moved the store: {_last(done)}")

    # --- what befalls them -------------------------------------------------------------------------------------

    def wait(self) -> None:
        time.sleep(self._random.uniform(0.1, 1.0))

    def kill_server(self) -> None:
        self._kill(self._home.server(), "the server")

    def kill_runner(self) -> None:
        self._kill(self._home.runner(), "the runner")

    def kill_job(self) -> None:
        found = self._home.of_jobs()
        self._kill(self._random.choice(found) if found else 0, "a process of a job")

    def _kill(self, pid: int, what: str) -> None:
        if pid:
            with contextlib.suppress(AssertionError, ProcessLookupError):  # it has just ended by itself
                self._home.kill(pid)
                self._tell(f"kill -9 of {what}")

    def _do(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end; now and then the server, the runner or the command itself is killed meanwhile."""
        process = self._home.start(*words)
        if self._random.random() < 0.3:
            time.sleep(self._random.uniform(0.0, 1.0))
            kill = self._random.choice([self.kill_server, self.kill_server, self.kill_runner, process.kill])
            kill()
            if process.returncode is None and kill == process.kill:
                self._tell(f"kill -9 of dstack {words[0]}")
        return self._home.ends(process, None)

    # --- what must be true -------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Let everything end in peace, and look at all of it."""
        home = self._home
        self._tell("no more kills: waiting for what runs")
        home.types("server", "start")
        home.wait(lambda: all(run["status"] in FINISHED for run in self._runs()) or None, "all runs end", 300)
        home.types("gc", "-y")
        done = home.types("verify", "--all", code=None)
        assert done.returncode == 0, f"verify --all: {done.stdout}{done.stderr}"
        restored = 0
        for run in self._runs():
            for snapshot in dict.fromkeys(self._snapshots(run["name"])):
                self._restore_again(run["name"], snapshot)
                restored += 1
            self._assert_last(run)
        home.types("server", "stop")
        referenced = assert_whole_store(home.folder)
        told = ", ".join(f"{name} {number}" for name, number in sorted(self.counts.items()))
        self._tell(f"all well: {len(self._runs_known())} runs, {restored} snapshots restored, {referenced} referenced")
        self._tell(f"done: {told}")

    def _restore_again(self, name: str, snapshot: str) -> None:
        target = self._folder / "restored"
        self._home.types("artifacts", "download", f"{name}@{snapshot}", "-o", str(target))
        self._assert_written(name, target / "out", f"{name}@{snapshot}")
        shutil.rmtree(target)

    def _assert_last(self, run: Any) -> None:
        """A writer that came to its end has exactly its last files in the store."""
        final = [row["final"] for row in self._rows(run["name"]) if "final" in row]
        if not final or run["reason"] not in ("exit-zero", "exit-code"):
            return
        target = self._folder / "restored"
        self._home.types("artifacts", "download", run["name"], "-o", str(target))
        found = _hashes(target / "out")
        assert found == final[-1], f"{run['name']} saved other files than it wrote last"
        shutil.rmtree(target)

    def _assert_written(self, name: str, folder: Path, source: str) -> int:
        """Every file is one that the run's writer, or that of a run before it, had written under that name, whole."""
        writers = [name]
        while writers[-1] in self._follows:
            writers.append(self._follows[writers[-1]])
        states = {(row["path"], row["sha"]) for writer in writers for row in self._rows(writer) if "path" in row}
        found = _hashes(folder)
        torn = [path for path, sha in found.items() if (path, sha) not in states]
        assert not torn, f"{source} has files that nobody wrote: {torn[:5]}"
        return len(found)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self._ledger / f"{name}.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        rows: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the writer was killed in the middle of the line
                rows.append(json.loads(line))
        return rows

    def _snapshots(self, name: str) -> list[str]:
        done = self._home.types("artifacts", "list", name, "--all-versions", "--json", code=None)
        return [item["manifest_id"] for item in json.loads(done.stdout)] if done.returncode == 0 else []

    def _runs(self) -> list[Any]:
        runs = json.loads(self._home.types("runs", "-a", "-n", "100", "--json").stdout)
        for run in runs:
            if run["resumed_from"]:
                self._follows.setdefault(run["name"], run["resumed_from"])  # later it may have been deleted
        return [run for run in runs if run["name"] not in self._gone]

    def _runs_known(self) -> list[str]:
        return [path.stem for path in self._ledger.iterdir()]

    def _pick(self, fits: Callable[[Any], bool]) -> Any:
        found = [run for run in self._runs() if fits(run)]
        return self._random.choice(found) if found else None

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")


def _hashes(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    how = "" if done.returncode in (0, 1) else f" (exit code {_code(done.returncode)})"
    return (lines[-1] if lines else "nothing said") + how


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)
