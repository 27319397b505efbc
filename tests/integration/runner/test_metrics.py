"""What a job may import of dstack, and what the runner reads of the files that a job logs into."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from dstack.domain.ports import SystemClock
from dstack.protocol import messages
from dstack.runner.metrics import MetricsReader, job_environment

SHOWN = "import dstack; print(getattr(dstack, 'mark', '-'), callable(dstack.log)); dstack.log(step=1, loss=2.5)"


def run_job(tmp_path: Path, code: str, *flags: str, pythonpath: str = "") -> str:
    environment = {"PATH": "/usr/bin:/bin", **job_environment(tmp_path, pythonpath)}
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()


def logged(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_it_works_where_dstack_is_not_installed(tmp_path: Path) -> None:
    # Without site-packages there is only the shim.
    assert run_job(tmp_path, SHOWN, "-S") == "- True"
    assert [(line["step"], line["loss"]) for line in logged(tmp_path)] == [(1, 2.5)]


def test_it_extends_an_installed_dstack(tmp_path: Path) -> None:
    # This environment has dstack installed: its version and its own `log` are what the job sees.
    code = "import dstack; from dstack.domain import ports; print(dstack.__version__, 'injob' in dstack.__file__)"
    assert run_job(tmp_path, code).endswith(" False")
    assert run_job(tmp_path, SHOWN) == "- True"
    assert len(logged(tmp_path)) == 1


@pytest.mark.parametrize("own", ["mark = 'mine'", "mark = 'mine'\ndef log(**values): pass"])
def test_it_adds_to_an_installed_dstack_what_that_lacks(tmp_path: Path, own: str) -> None:
    site = package(tmp_path / "site", own)
    installed = f"import sys; sys.path.append({str(site)!r}); "
    assert run_job(tmp_path, installed + SHOWN, "-S") == "mine True"
    assert run_job(tmp_path, f"{installed} import dstack.more; print(dstack.more.value)", "-S") == "7"
    assert (tmp_path / "metrics.jsonl").exists() is ("def log" not in own)


def test_a_package_on_the_jobs_own_path_comes_first(tmp_path: Path) -> None:
    own = package(tmp_path / "own", "mark = 'mine'")
    assert run_job(tmp_path, "import dstack; print(dstack.mark)", "-S", pythonpath=str(own)) == "mine"


def package(folder: Path, text: str) -> Path:
    """A folder with a package `dstack` that is not ours."""
    (folder / "dstack").mkdir(parents=True)
    (folder / "dstack" / "__init__.py").write_text(text)
    (folder / "dstack" / "more.py").write_text("value = 7")
    return folder


class Reader:
    """A reader whose files the test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "work").mkdir(exist_ok=True)
        self.events: list[messages.MetricsLogged] = []
        self.came = asyncio.Event()
        self.reader = MetricsReader(uuid.uuid4(), folder, ".", SystemClock(), 0.01, self.take)

    def take(self, event: messages.AttemptEvent) -> None:
        assert isinstance(event, messages.MetricsLogged)
        self.events.append(event)
        self.came.set()

    @property
    def points(self) -> list[tuple[str, int | None, float]]:
        return [(point.name, point.step, point.value) for event in self.events for point in event.points]

    def write(self, text: str, path: str = "metrics.jsonl", mode: str = "a") -> None:
        with open(self.folder / path, mode, encoding="utf-8") as file:
            file.write(text)


def test_whole_lines_are_reported_while_the_job_runs_and_the_rest_at_its_end(tmp_path: Path) -> None:
    reader = Reader(tmp_path)

    async def course() -> None:
        reader.reader.begin()
        reader.write('{"step": 1, "loss": 3}\n{"step": 2, "lo')
        await reader.came.wait()
        assert reader.points == [("loss", 1, 3.0)]
        reader.write('ss": 2}')
        reader.reader.finish()

    asyncio.run(course())
    assert reader.points == [("loss", 1, 3.0), ("loss", 2, 2.0)]


def test_a_new_agent_reports_the_same_points_again(tmp_path: Path) -> None:
    lines = "".join(f'{{"step": {step}, "loss": {step}}}\n' for step in range(12_000))
    first, second = Reader(tmp_path), Reader(tmp_path)
    first.write(lines)
    first.reader.finish()
    second.reader.finish()
    assert [len(event.points) for event in first.events] == [5000, 5000, 2000]
    assert [p.seq for e in first.events for p in e.points] == [p.seq for e in second.events for p in e.points]


def test_a_file_of_metrics_that_came_with_the_code_is_not_of_this_run(tmp_path: Path) -> None:
    first = Reader(tmp_path)
    first.write('{"loss": 1}\n', "work/metrics.jsonl")
    first.reader.prepare()

    async def course(reader: Reader) -> None:
        reader.reader.begin()
        reader.write('{"loss": 2}\n', "work/metrics.jsonl")
        reader.reader.finish()

    asyncio.run(course(first))
    assert first.points == [("loss", None, 2.0)]
    again = Reader(tmp_path)
    asyncio.run(course(again))
    assert again.points == [("loss", None, 2.0), ("loss", None, 2.0)]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.write('{"loss": 1}\n{"loss": 2}\n', "work/metrics.jsonl")
    reader.reader.finish()
    reader.write('{"loss": 3}\n', "work/metrics.jsonl", "w")
    reader.reader.finish()
    assert [value for _, _, value in reader.points] == [1.0, 2.0, 3.0]
