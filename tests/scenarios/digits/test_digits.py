"""The main job: a real model is trained by a graph of workflows, tagged, and used again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.scenarios.person import Person

T = TypeVar("T")

EPOCH = re.compile(r"epoch +(\d+)/20  loss (\d\.\d{4})  accuracy (\d\.\d{4})")


def test_train_tag_and_reuse(person: Person, tmp_path: Path) -> None:
    output = person.types("run", "train", "--epochs", "20", "--seed", "2")

    assert "1347 images to train on, 450 to test with (seed 2)" in output, "prepare ran first, with the same seed"
    epochs = EPOCH.findall(output)
    assert [int(number) for number, _, _ in epochs] == list(range(1, 21)), "one line for each epoch, in order"
    assert float(epochs[-1][2]) >= 0.9
    assert float(epochs[-1][1]) < float(epochs[0][1])

    run = person.runs()[0]
    assert {job["workflow"]: job["status"] for job in run["jobs"]} == {"prepare": "done", "train": "done"}
    assert {job["workflow"]: [artifact["path"] for artifact in job["artifacts"]] for job in run["jobs"]} == {
        "prepare": ["data"],
        "train": ["checkpoint"],
    }
    logs = person.types("logs", run["name"])
    assert EPOCH.findall(logs) == epochs, "the log is what was shown"

    person.types("tag", run["name"], "latest")
    tags = json.loads(person.types("tags", "list", "--json"))
    assert {(tag["name"], tag["workflow"], tag["run"]) for tag in tags} == {
        ("latest", "prepare", run["name"]),
        ("latest", "train", run["name"]),
    }

    output = person.types("run", "evaluate")

    right = re.search(r"after 20 epochs: (\d+) of 450 right", output)
    assert right is not None
    assert int(right[1]) >= 405
    assert round(int(right[1]) / 450, 4) == float(epochs[-1][2]), "evaluate saw the model that train made"
    assert "images to train on" not in output, "prepare did not run again"
    evaluate = person.runs()[0]
    assert [job["workflow"] for job in evaluate["jobs"] if job["started_at"] and job["attempt"]] == ["evaluate"]

    person.types("artifacts", "download", ":latest", "train", "-o", str(tmp_path / "model"))
    assert [path.name for path in (tmp_path / "model").rglob("*") if path.is_file()] == ["model.pkl"]
    assert not (person.repo / "data").exists()


def test_a_training_that_is_stopped_keeps_its_last_epoch(person: Person) -> None:
    """`checkpoint` is written after every epoch and saved while it trains: what is kept is as far as it got."""
    person.environment["DSTACK_RUNNER_MAX_INTERVAL"] = "0.5"
    name = person.types("run", "train", "--epochs", "100000", "-d").strip()
    live = until(lambda: [item for item in artifacts(person, name) if item["path"] == "checkpoint"])
    assert person.runs()[0]["status"] == "running"
    assert live[0]["partial"]
    until(lambda: artifacts(person, name)[-1]["content_id"] != live[0]["content_id"])
    person.types("stop", "-y", name)
    printed = len(re.findall(r"^train +\| epoch", person.types("logs", "-f", name), re.MULTILINE))
    assert person.runs()[0]["status"] == "stopped"

    person.types("tag", name, "latest", "--force")
    kept = re.search(r"after (\d+) epochs: (\d+) of 450 right", person.types("run", "evaluate"))
    assert kept is not None
    assert int(kept[1]) in (printed, printed + 1), "saved just before its line is printed"


def artifacts(person: Person, name: str) -> list[dict[str, Any]]:
    """What a run has saved, oldest first."""
    return json.loads(person.types("artifacts", "list", name, "--json"))[::-1]


def until(look: Callable[[], T], seconds: float = 60) -> T:
    """The first true value of `look`: what other processes do has no event to wait for."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def test_the_second_run_installs_nothing(person: Person) -> None:
    first = person.types("run", "prepare")
    second = person.types("run", "prepare", "--seed", "3")

    assert "+ scikit-learn==" in first, "the first run shows what it installs"
    assert second == "1347 images to train on, 450 to test with (seed 3)\n"
