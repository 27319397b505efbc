"""`dstack run` before anything runs: the plan, the list of workflows, folders that are no repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.contract.cli.conftest import LOGS, Dstack, end
from tests.support.stub_api import Reply, StubApi, log


def test_the_plan_says_what_gives_a_value(
    accepting: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", "of-the-shell")
    (tmp_path / "vars").write_text("B=s3cret\nA=1\nD\n")
    env = {name: f"x ${name} of your shell" for name in "ABCD"}
    variables = {
        "quick": {"value": False, "source": "f:1"},
        "none": {"value": None, "source": "f:2"},
        "lr": {"value": "1e-3", "source": "f:3"},
    }
    steps = [{"name": "train", "action": "run", "provider": "bash", "env": env, "variables": variables}]
    accepting.on("POST …/plan", Reply(body={"workflow": "train", "steps": steps}))
    given = ["--env-file", str(tmp_path / "vars"), "-e", "A", "-e", "C=s3cret"]

    done = dstack("run", "--plan", "train", *given)

    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[-7:] == [
        "env A=x $A of your shell",
        f"env B=x (given by {tmp_path}/vars)",
        "env C=x (given by -e)",
        "env D=x $D of your shell",
        "variable quick = false (f:1)",
        "variable none = (f:2)",
        "variable lr = 1e-3 (f:3)",
    ]
    [plan] = json.loads(dstack("run", "--plan", "--json", "train", *given).out)
    assert plan["steps"][0]["env"]["C"] == "x (given by -e)"


def test_the_plan_runs_nothing(accepting: StubApi, dstack: Dstack) -> None:
    steps = [
        {"name": "prepare", "action": "reuse", "from": "old-cow-2", "tag": "latest", "artifacts": ["data"]},
        {"name": "mend", "action": "skip", "why": "its condition is false: `failed()`", "provider": "bash"},
        {"name": "train", "action": "run", "provider": "bash", "needs": ["prepare:latest", "mend"],
         "requirements": "1 CPU", "commands": ["python train.py"], "artifacts": ["out"], "jobs": 2,
         "env": {"KEY": "${{ secrets.KEY }}"}, "variables": {"lr": {"value": 0.1, "source": "command line"}},
         "policy": {"condition": "not failed()", "timeout": 90, "fail_fast": True, "continue_on_failure": True,
                    "retry": {"on": ["oom"], "max": 2, "backoff": 1}}},
        {"name": "all", "action": "run", "provider": "bash", "needs": ["train", "mend", "prepare:latest"]},
    ]  # fmt: skip
    code = {"files": 3, "size": 2048, "content_id": "ab"}
    accepting.on("POST …/plan", Reply(body={"workflow": "all", "steps": steps, "code": code}))
    done = dstack("run", "--plan", "all")
    assert done.code == 0
    summary, sizes, rest = done.out.split("\n", 2)
    assert summary == "all: 4 steps, 2 to run, 1 reused, 1 skipped"
    assert re.fullmatch(r"code: 3 files, 2KiB, \d+B of it new to the server", sizes)
    assert rest == (
        "\n"
        "all: run\n"
        "├─ train: run\n"
        "│  ├─ prepare: reuse from old-cow-2 (tag latest)\n"
        "│  └─ mend: skip, its condition is false: `failed()`\n"
        "├─ mend: skip, its condition is false: `failed()`\n"
        "└─ prepare: reuse from old-cow-2 (tag latest)\n\n"
        "prepare: reuse from old-cow-2 (tag latest)\n"
        "  artifacts  data\n\n"
        "mend: skip, its condition is false: `failed()`\n"
        "  provider   bash\n\n"
        "train: run\n"
        "  provider   bash\n"
        "  jobs       2\n"
        "  after      prepare:latest, mend\n"
        "  needs      1 CPU\n"
        "  artifacts  out\n"
        "  if         not failed()\n"
        "  timeout    90 s\n"
        "  retry      at most 2 times, from 1 s on: oom\n"
        "  a failure  stops its other jobs and counts as a success\n"
        "  env        KEY=${{ secrets.KEY }}\n"
        "  variable   lr = 0.1  (command line)\n"
        "  $          python train.py\n\n"
        "all: run\n"
        "  provider   bash\n"
        "  after      train, mend, prepare:latest\n"
    )
    assert not accepting.named("POST …/runs")
    [plan] = json.loads(dstack("run", "--plan", "all", "--json").out)
    assert plan["code"].pop("sent") >= 0
    assert plan["code"] == code
    assert plan["steps"] == steps


def test_a_large_plan_is_not_drawn_and_repetitions_are_named_only(accepting: StubApi, dstack: Dstack) -> None:
    def planned(size: int) -> str:
        steps = [
            {"name": f"w{at}", "action": "run", "needs": [f"w{need}" for need in (at - 1, at - 2) if need >= 0]}
            for at in range(size)
        ]
        accepting.on("POST …/plan", Reply(body={"workflow": f"w{size - 1}", "steps": steps}))
        return dstack("run", "--plan", "train").out

    assert planned(5).split("\n\n")[1].splitlines() == [
        "w4: run",
        "├─ w3: run",
        "│  ├─ w2: run",
        "│  │  ├─ w1: run",
        "│  │  │  └─ w0: run",
        "│  │  └─ w0: run",
        "│  └─ w1 (above)",
        "└─ w2 (above)",
    ]
    assert "├─" not in planned(100)


def test_without_a_name_the_workflows_are_listed(accepting: StubApi, dstack: Dstack) -> None:
    known = [
        {
            "name": "train", "provider": "bash", "file": ".dstack/workflows.yaml", "line": 2, "help": "Usage: x",
            "variables": {
                "lr": {"value": 0.1, "source": ".dstack/variables.yaml:3"},
                "n": {"value": None, "source": ".dstack/variables.yaml:4", "required": True, "type": "int", "min": 1,
                      "max": 9, "choices": [1, 2], "help": "How many."},
                "flag": {"value": True, "source": ".dstack/variables.yaml:5", "type": "bool"},
            },
        }
    ]  # fmt: skip
    options = [
        {"option": "-p, --ports N", "help": "give it ports"},
        {"option": "    --cpu N", "help": "ask for processors"},
    ]
    described = {"usage": None, "options": options}
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": known, "described": described}))
    done = dstack("run")
    assert done.code == 0
    assert "train     bash      .dstack/workflows.yaml:2  Usage: x\n" in done.out
    assert dstack("workflows").out == done.out
    assert json.loads(dstack("workflows", "--json").out) == known
    done = dstack("run", "train", "--help")
    assert done.out.startswith("Usage: dstack run")
    assert done.out.endswith(
        "\nUsage: x\n\nVariables of train:\n"
        "  --lr VALUE  0.1  (.dstack/variables.yaml:3)\n"
        "  --n INT  has to be given; at least 1; at most 9; one of 1, 2  (.dstack/variables.yaml:4)\n"
        "      How many.\n"
        "  --flag  true  (.dstack/variables.yaml:5)\n"
        "\nOptions that override the file:\n"
        "  -p, --ports N  give it ports\n"
        "      --cpu N    ask for processors\n"
    )
    assert accepting.named("POST …/validate")[-1].json["describe"] == "train"
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": known, "described": None}))
    done = dstack("run", "trian", "--help")
    assert (done.code, "did you mean `train`?" in done.err) == (2, True)


def test_outside_of_a_repository(
    accepting: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash"]}))
    done = dstack("run", "train")
    assert done.code == 2
    assert f"no .dstack/workflows.yaml in {tmp_path}" in done.err
    assert not accepting.named("POST …/runs"), "no code of a folder that is no repository was sent"
    assert dstack("run").code == 2


def test_a_provider_runs_in_any_folder(
    accepting: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accepting.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash"]}))
    accepting.on(LOGS, Reply(stream=[*log("train", 0, b"hello\n"), *end()]))
    done = dstack("run", "bash", "-c", "echo hello")
    assert (done.code, done.out) == (0, "hello\n")
    (sent,) = accepting.named("POST …/runs")
    assert (sent.json["workflow"], sent.json["args"], sent.json["files"]) == ("bash", ["-c", "echo hello"], {})
    assert sent.json["repository"]["root"] == str(tmp_path.resolve())
    assert dstack("run", "bash", "-c", "true", "--repo", str(tmp_path)).code == 0


def test_a_misspelt_provider_outside_of_a_repository(
    stub: StubApi, dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.on("POST …/validate", Reply(body={"diagnostics": [], "workflows": [], "providers": ["bash", "python"]}))
    done = dstack("run", "pyhton", "train.py")
    assert (done.code, "hint: did you mean `python`?" in done.err) == (2, True)
    done = dstack("run", "train")
    assert (done.code, "`dstack init` begins a new one" in done.err) == (2, True)
