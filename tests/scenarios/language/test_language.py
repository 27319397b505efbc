"""What the language adds to 2022's, run from the command line: each key has its effect."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.scenarios.person import DSTACK, Person

SECRET = "k3y with 'quotes' \"and\" $more"


def last(person: Person) -> dict[str, Any]:
    return person.runs()[0]


def states(run: dict[str, Any]) -> dict[str, str]:
    return {job["name"]: job["status"] for job in run["jobs"]}


def test_the_language(person: Person) -> None:
    """One home and one server for all: starting them takes longer than the runs."""
    declared_variables(person)
    conditions(person)
    attempts(person)
    secrets_and_values(person)
    plans(person)


def declared_variables(person: Person) -> None:
    assert "`epochs` must be at least 1, not `0`" in refused(person, "run", "train", "--epochs", "0")
    assert "run with `--epochs VALUE` (How often to go through the data.)" in refused(person, "run", "train")
    assert "`mode` must be one of full, quick, not `fast`" in refused(person, "run", "never", "--mode", "fast")
    person.types("run", "train", "--epochs", "3")
    assert last(person)["variables"]["epochs"] == 3
    assert result(person, "model/log") == "epochs 3 of data\n"


def conditions(person: Person) -> None:
    person.types("run", "train", "--epochs=1", "--fresh", "no")
    run = last(person)
    assert (states(run), run["status"]) == ({"fetch": "skipped", "train": "done"}, "done")
    assert result(person, "model/log") == "epochs 1 of nothing\n"
    assert "skipped because its condition is false: ${{ fresh }}" in [job["reason_text"] for job in run["jobs"]]
    out = person.types("run", "cleanup", code=3)
    assert "it broke\n" in out
    assert "cleaned\n" in out
    run = last(person)
    assert states(run) == {"broken": "failed", "mourn": "done", "never": "skipped", "cleanup": "done"}
    person.types("run", "cleanup", "--mode", "quick", code=3)
    assert states(last(person)) == {"broken": "failed", "mourn": "skipped", "never": "skipped", "cleanup": "done"}
    assert "half\n" in person.types("run", "after-tolerated", code=4), "a run with a failed job has failed"
    assert states(last(person)) == {"tolerated": "failed", "after-tolerated": "done"}


def attempts(person: Person) -> None:
    person.types("run", "flaky")
    assert [job["attempt"] for job in last(person)["jobs"]] == [2]
    person.types("run", "flaky", "--succeed", "9", code=1)
    assert [job["attempt"] for job in last(person)["jobs"]] == [4], "the first and three more"
    person.types("run", "endless", code=124)
    assert last(person)["jobs"][0]["reason"] == "timeout"


def secrets_and_values(person: Person) -> None:
    assert "there is no secret `api_key`" in refused(person, "run", "private")
    subprocess.run(
        [DSTACK, "secrets", "add", "api_key"], cwd=person.repo, env=person.environment, input=SECRET, text=True,
        check=True, capture_output=True,
    )  # fmt: skip
    assert "`FROM_SHELL` is not set in your shell" in refused(person, "run", "private")
    person.environment["FROM_SHELL"] = "of my shell"
    text = f"Bearer {SECRET}|{SECRET}|{SECRET}|{SECRET}|of my shell|"
    assert hashlib.sha256(text.encode()).hexdigest() in person.types("run", "private")
    assert SECRET not in person.types("runs", last(person)["name"], "--json")


def plans(person: Person) -> None:
    (plan,) = json.loads(person.types("run", "train", "--epochs", "2", "--fresh", "no", "--plan", "--json"))
    fetch, train = plan["steps"]
    assert (fetch["action"], fetch["why"]) == ("skip", "its condition is false: `${{ fresh }}`")
    assert train["variables"]["epochs"] == {"value": 2, "source": "command line"}
    assert train["variables"]["mode"] == {"value": "full", "source": ".dstack/variables.yaml:4"}
    assert plan["code"]["files"] == 2
    told = person.types("run", "train", "--epochs", "2", "--plan")
    assert "train: run\n└─ fetch: run\n" in told
    assert "already" in told.splitlines()[1], "an unchanged tree is not sent again"
    assert "--epochs INT  has to be given; at least 1" in person.types("run", "train", "--help")


def test_a_provider_runs_in_a_folder_that_is_no_repository(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / "anywhere"
    folder.mkdir()
    (folder / "train.py").write_text("import sys\nprint(sys.argv[1:])\n")
    person.repo = folder
    assert "['--epochs', '3']\n" in person.types("run", "python", "train.py", "--epochs", "3")
    assert "hello\n" in person.types("run", "bash", "-c", "echo hello")
    assert "no .dstack/workflows.yaml" in refused(person, "run", "pyhton", "train.py")
    assert "Usage: dstack run bash -c COMMAND" in person.types("run", "bash", "--help")


def refused(person: Person, *words: str) -> str:
    """What a command says that is not accepted."""
    done = subprocess.run(
        [DSTACK, *words], cwd=person.repo, env=person.environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def result(person: Person, path: str) -> str:
    """A file of the last run's artifacts."""
    name = last(person)["name"]
    target = person.repo.parent / name
    person.types("artifacts", "download", name, "-o", str(target))
    (found,) = target.rglob(path)
    return found.read_text()
