"""The private server and its runner, as a person sees them: started, shown, stopped, and survived by jobs."""

from __future__ import annotations

import json
import os
import select
import stat
from pathlib import Path

from tests.scenarios.person import Person


def test_start_status_and_stop(person: Person) -> None:
    person.types("server", "status", code=1)
    person.types("server")
    (server,) = json.loads(person.types("server", "status", "--json"))
    person.types("server", "start")
    assert json.loads(person.types("server", "status", "--json"))[0]["pid"] == server["pid"], (
        "start found the running one"
    )

    socket, database = Path(server["socket"]), person.home / "server" / "dstack.db"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(database.stat().st_mode) == 0o600

    assert str(server["pid"]) in person.types("server", "stop")
    person.types("server", "status", code=1)
    assert not socket.exists()


def test_a_job_goes_on_without_its_server_and_the_next_one_adopts_it(person: Person, tmp_path: Path) -> None:
    person.types("run", "wait", "-d")
    runner = wait_for_runner(person)
    assert "1 unfinished job goes on without it" in person.types("server", "stop")
    assert wait_for_runner(person) == runner, "the runner holds a job, so it outlives the server"

    (tmp_path / "go").touch()
    (run,) = person.runs()
    output = person.types("logs", run["name"], "-f")

    assert output == "waiting\nwent on\n"
    (run,) = person.runs()
    assert (run["status"], run["jobs"][0]["attempt"]) == ("done", 1)
    assert wait_for_runner(person) == runner, "the new server adopted the runner"

    gone = os.pidfd_open(runner)
    try:
        person.types("server", "stop")
        assert select.select([gone], [], [], 20)[0], "with nothing to hold, the runner ends"
    finally:
        os.close(gone)


def test_json_is_a_list_of_objects_newest_first(person: Person) -> None:
    person.types("run", "write", "-t", "first")
    person.types("run", "write")
    runs = person.runs()

    fields = {"name", "workflow", "status", "reason", "exit_code", "tags", "submitted_at", "finished_at", "jobs"}
    of_a_job = {
        *("name", "workflow", "status", "reason", "exit_code", "attempt"),
        *("runner", "started_at", "finished_at", "artifacts"),
    }
    assert len(runs) == 2
    assert runs[0]["submitted_at"] > runs[1]["submitted_at"]
    assert all(fields <= set(run) for run in runs)
    assert all(of_a_job <= set(job) for run in runs for job in run["jobs"])
    assert [run["tags"] for run in runs] == [[], ["first"]]

    name = runs[0]["name"]
    for words in (
        ["runs", name],
        ["ps"],
        ["status", "-a"],
        ["tags", "list"],
        ["artifacts", "list", name],
        ["explain", name],
        ["server", "status"],
        ["server", "start"],
        ["tags"],
        ["workflows"],
        ["du"],
        ["open", name],
        ["tag", name, "second"],
        ["untag", "second"],
        ["stop", name, "-y"],
    ):
        answer = json.loads(person.types(*words, "--json"))
        assert isinstance(answer, list), words
        assert answer, words
        assert all(isinstance(item, dict) for item in answer), words
    assert json.loads(person.types("validate", "--json")) == []


def wait_for_runner(person: Person) -> int:
    """The process id of the runner; it writes its lock file when it has started."""
    for _ in range(200):
        try:
            return int((person.home / "runner" / "lock").read_text())
        except (FileNotFoundError, ValueError):
            select.select([], [], [], 0.05)
    raise AssertionError("no runner within 10 s")
