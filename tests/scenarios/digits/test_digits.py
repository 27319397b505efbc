"""The main job: a real model is trained by a graph of workflows, tagged, and used again."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.scenarios.person import Person

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


def test_the_second_run_installs_nothing(person: Person) -> None:
    first = person.types("run", "prepare")
    second = person.types("run", "prepare", "--seed", "3")

    assert "+ scikit-learn==" in first, "the first run shows what it installs"
    assert second == "1347 images to train on, 450 to test with (seed 3)\n"
