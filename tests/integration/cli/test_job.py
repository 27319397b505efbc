"""What a job finds when it starts and what is kept of it, with a real server and a real runner."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Home, make_home
from tests.integration.cli.test_embedded import until

SLOTS = 2


@pytest.fixture(scope="module")
def quick_home() -> Iterator[Home]:
    """A home for the tests of this module: two slots, and live snapshots at once."""
    for home in make_home():
        home.environment |= {"DSTACK_RUNNER_SLOTS": str(SLOTS), "DSTACK_RUNNER_QUIET_PERIOD": "0.1"}
        home.run("server", "start")
        yield home


def write(home: Home, workflows: str, variables: str = "") -> None:
    (home.repository / ".dstack" / "workflows.yaml").write_text("workflows:\n" + workflows)
    (home.repository / ".dstack" / "variables.yaml").write_text(variables)


def finished(home: Home, name: str) -> dict[str, object]:
    """The run once it has ended."""
    home.run("logs", "-f", name)
    return home.json("runs", name)[0]


# --- what it finds -------------------------------------------------------------------------------------------------

SHOW = """\
  - name: show
    provider: bash
    environment: {OWN: mine}
    commands:
      - python3 -c 'import json, os, sys; print(json.dumps([dict(os.environ), sys.stdin.read()]))'
"""
OF_THE_SHELL = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PIP_INDEX_URL": "https://index", "no_proxy": "here"}
SECRET = "s3cret-of-the-shell"


def test_its_environment_is_the_declared_one(quick_home: Home, tmp_path: Path) -> None:
    """Nothing else of the shell, no card of another job, nothing to read; and who and where it is."""
    write(quick_home, SHOW, "variables: {global: {batch-size: 8}}\n")
    ours = {name: value for name, value in quick_home.environment.items() if name.startswith("DSTACK_")}
    secrets = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DSTACK_TOKEN", "MY_VARIABLE"), SECRET)
    shell = {**OF_THE_SHELL, **ours, **secrets, "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}
    done = quick_home.run("run", "show", env=shell)

    assert SECRET not in done.stdout
    environment, stdin = json.loads(done.stdout)
    assert stdin == ""
    [run] = quick_home.json("runs", "-a")[:1]
    host = socket.gethostname()
    expected = OF_THE_SHELL | {
        "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1", "BATCH_SIZE": "8", "OWN": "mine",
        "RUN_NAME": run["name"], "JOB_ID": run["jobs"][0]["id"].removeprefix("job_"),
        "HOSTNAME": host, "JOB_HOSTNAME": host,
    }  # fmt: skip
    of_bash = {"PWD", "OLDPWD", "SHLVL", "_"}
    found = {name: value for name, value in environment.items() if not name.startswith("DSTACK_")}
    assert found.pop("PYTHONPATH").endswith("/dstack/sdk/injob"), "what `import dstack` needs within a job"
    assert {name: value for name, value in found.items() if name not in of_bash} == expected
    assert (environment["DSTACK_RUN_NAME"], environment["DSTACK_ATTEMPT"]) == (run["name"], "1")
    assert (environment["DSTACK_WORKFLOW"], environment["DSTACK_JOB_NAME"]) == ("show", "show")
    assert (environment["DSTACK_HOME"], environment["DSTACK_SERVER"]) == (str(quick_home.path), "local")


def test_its_working_copy_is_fresh(quick_home: Home) -> None:
    """What one run writes neither the next one sees nor the person's own folder."""
    write(
        quick_home,
        """\
  - name: spoil
    provider: bash
    commands: [cat kept, ls left out 2>/dev/null || true, echo changed > kept, touch left]
    artifacts: [out]
""",
    )
    (quick_home.repository / "kept").write_text("original\n")
    before = sorted(quick_home.repository.rglob("*"))
    assert [quick_home.run("run", "spoil").stdout for _ in range(2)] == ["original\nout:\n"] * 2
    assert (quick_home.repository / "kept").read_text() == "original\n"
    assert sorted(quick_home.repository.rglob("*")) == before


def test_no_job_alters_the_input_of_another(quick_home: Home, tmp_path: Path) -> None:
    write(
        quick_home,
        """\
  - {name: make, provider: bash, artifacts: [data], commands: [echo clean > data/file]}
  - {name: spoil, provider: bash, depends-on: [make], commands: [echo spoiled > data/file, touch data/more]}
  - {name: look, provider: bash, depends-on: [make, spoil], commands: [ls data, cat data/file]}
""",
    )
    name = quick_home.run("run", "-d", "look").stdout.strip()
    finished(quick_home, name)
    assert quick_home.run("logs", name, "look").stdout == "file\nclean\n"
    quick_home.run("artifacts", "download", name, "-o", str(tmp_path))
    assert (tmp_path / "data" / "file").read_text() == "clean\n"


def test_branches_run_side_by_side_up_to_the_runners_capacity(quick_home: Home, tmp_path: Path) -> None:
    """Each goes on only when as many have begun as there are slots; one more begins only when one has ended."""
    story = tmp_path / "story"
    branches = [f"b{number}" for number in range(SLOTS + 2)]
    wait = f"until [ $(grep -c begin {story}) -ge {SLOTS} ]; do sleep 0.02; done"
    write(
        quick_home,
        "".join(
            f"  - name: {branch}\n    provider: bash\n    commands:\n      - echo begin >> {story}\n"
            f"      - {wait}\n      - sleep 0.2\n      - echo end >> {story}\n"
            for branch in branches
        )
        + f"  - {{name: all, provider: bash, depends-on: [{', '.join(branches)}], commands: [echo all]}}\n",
    )
    assert quick_home.run("run", "all").stdout.endswith("all\n")
    at_once, most = 0, 0
    for word in story.read_text().split():
        at_once += 1 if word == "begin" else -1
        most = max(most, at_once)
    assert (most, at_once) == (SLOTS, 0)


# --- its output ----------------------------------------------------------------------------------------------------


def test_every_byte_of_its_output_is_shown_and_kept(quick_home: Home) -> None:
    r"""`\r`, colours, NUL and what is no text, without an end of line."""
    content = bytes(range(256)) * 500 + b"10%\r100%\r\n\x1b[31mred\x1b[0m \xff\xfe\0 no end of line"
    (quick_home.repository / "content").write_bytes(content)
    write(quick_home, "  - {name: show, provider: bash, commands: [cat content]}\n")
    shown, told = quick_home.start("run", "show").communicate(timeout=60)
    name = quick_home.json("runs", "-a")[0]["name"]
    assert shown == content, told
    for words in (["logs", name], ["logs", "-f", name], ["logs", name, "show"]):
        assert quick_home.start(*words).communicate(timeout=60)[0] == content, words


def test_a_million_lines_are_kept_once_and_in_order(quick_home: Home) -> None:
    write(quick_home, "  - {name: count, provider: bash, commands: [seq 1000000]}\n")
    expected = "".join(f"{number}\n" for number in range(1, 1_000_001))
    assert quick_home.run("run", "count").stdout == expected
    assert quick_home.run("logs", quick_home.json("runs", "-a")[0]["name"]).stdout == expected


def test_since_leaves_out_what_was_printed_before(quick_home: Home, tmp_path: Path) -> None:
    write(
        quick_home,
        f"""\
  - name: talk
    provider: bash
    commands: [echo early, 'until [ -e {tmp_path}/go ]; do sleep 0.02; done', echo late]
""",
    )
    name = quick_home.run("run", "-d", "talk").stdout.strip()
    until(lambda: quick_home.run("logs", name).stdout == "early\n")
    time.sleep(0.4)  # the sidecar knows times to a tenth of a second
    between = datetime.now(UTC).isoformat()
    time.sleep(0.4)
    (tmp_path / "go").touch()
    assert quick_home.run("logs", "-f", name).stdout == "early\nlate\n"
    assert quick_home.run("logs", "--since", between, name).stdout == "late\n"
    assert quick_home.run("logs", "--since", "1h", name).stdout == "early\nlate\n"


# --- what is kept --------------------------------------------------------------------------------------------------

ENDS = {
    # how it ends: (status, exit code of the run, what is kept at the end, whether it is partial)
    "done": ("done", 0, "two", False),
    "failed": ("failed", 3, "two", True),
    "stopped": ("stopped", 122, "two", True),
    "aborted": ("stopped", 122, "one", True),
}


@pytest.mark.parametrize("end", ENDS)
def test_artifacts_are_saved_while_it_runs_and_however_it_ends(quick_home: Home, tmp_path: Path, end: str) -> None:
    status, code, kept, partial = ENDS[end]
    write(
        quick_home,
        f"""\
  - name: train
    provider: bash
    artifacts: [checkpoint]
    commands:
      - trap 'echo two > checkpoint/epoch; exit 1' TERM
      - echo one > checkpoint/epoch
      - until [ -e {tmp_path}/go ]; do sleep 0.02; done
      - echo two > checkpoint/epoch
      - exit {code if end == "failed" else 0}
""",
    )
    name = quick_home.run("run", "-d", "train").stdout.strip()

    until(lambda: quick_home.json("artifacts", "list", name))
    [live] = quick_home.json("artifacts", "list", name)
    assert quick_home.json("runs", name)[0]["status"] == "running"
    assert (live["path"], live["files"], live["partial"]) == ("checkpoint", 1, True)
    assert downloaded(quick_home, name, tmp_path / "live") == "one\n"

    if end in ("stopped", "aborted"):
        quick_home.run("stop", "-y", *(["--abort"] if end == "aborted" else []), name)
    else:
        (tmp_path / "go").touch()
    run = finished(quick_home, name)
    assert (run["status"], run["exit_code"]) == (status, code)
    [last] = quick_home.json("artifacts", "list", name)
    assert last["partial"] is partial
    assert downloaded(quick_home, name, tmp_path / "last") == f"{kept}\n"

    quick_home.run("tag", name, "kept", *(["--force"] if partial else []))
    assert quick_home.json("artifacts", "list", ":kept") == [last]
    assert downloaded(quick_home, ":kept", tmp_path / "tagged") == f"{kept}\n"
    assert quick_home.json("untag", "kept")[0]["partial"] is partial


def downloaded(home: Home, source: str, target: Path) -> str:
    home.run("artifacts", "download", source, "-o", str(target))
    return (target / "checkpoint" / "epoch").read_text()


def test_what_is_listed_is_newest_first(quick_home: Home) -> None:
    """By time, where the order by name would be another."""
    write(
        quick_home,
        """\
  - {name: a, provider: bash, artifacts: [out-of-a], commands: [echo a > out-of-a/file]}
  - {name: b, provider: bash, artifacts: [out-of-b], depends-on: [a], commands: [echo b > out-of-b/file]}
""",
    )
    names: list[str] = []
    for tag in ("first", "second"):
        names.append(quick_home.run("run", "-d", "b").stdout.strip())
        finished(quick_home, names[-1])
        quick_home.run("tag", names[-1], tag)
    assert [run["name"] for run in quick_home.json("runs", "-a")[:2]] == names[::-1]
    assert [run["name"] for run in quick_home.json("runs")[:2]] == names[::-1]
    assert [tag["name"] for tag in quick_home.json("tags", "list")] == ["second"] * 2 + ["first"] * 2
    assert [item["path"] for item in quick_home.json("artifacts", "list", names[0])] == ["out-of-b", "out-of-a"]
    for tag in ("first", "second"):
        quick_home.run("untag", tag)


# --- when it cannot run --------------------------------------------------------------------------------------------


def test_a_waiting_job_is_explained(quick_home: Home, tmp_path: Path) -> None:
    write(
        quick_home,
        f"""\
  - {{name: long, provider: bash, commands: ['until [ -e {tmp_path}/go ]; do sleep 0.02; done']}}
  - {{name: after, provider: bash, depends-on: [long], commands: [echo after]}}
""",
    )
    name = quick_home.run("run", "-d", "after").stdout.strip()
    until(lambda: quick_home.json("runs", name)[0]["status"] == "running")
    assert "after waits for long to finish" in quick_home.run("explain", name).stdout
    (tmp_path / "go").touch()
    assert finished(quick_home, name)["status"] == "done"


@pytest.mark.parametrize(
    ("resources", "asked", "there"),
    [
        ("gpu: 100", "1 CPU, 100 GPUs", "100 GPUs asked, "),
        ("memory: 900TB", "1 CPU, 900TB", "900TB of memory asked, "),
        ("cpu: 1000", "1000 CPUs", "1000 CPUs asked, 2 there"),
    ],
)
def test_what_this_machine_does_not_have_fails_at_once(home: Home, resources: str, asked: str, there: str) -> None:
    """With nothing running yet, and by what happens alone: the next look of any loop would be in an hour."""
    home.environment |= {"DSTACK_SERVER_TICK": "3600", "DSTACK_RUNNER_SLOTS": str(SLOTS)}
    write(home, f"  - {{name: large, provider: bash, commands: ['true'], resources: {{{resources}}}}}\n")
    for _ in range(2):
        done = home.run("run", "large", check=120)
        for words in (f"asked for {asked}: ", there, "Lower `resources` in the workflow, or add a machine that has it"):
            assert words in done.stderr
        [run] = home.json("runs", "-a")[:1]
        assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "no-capacity", 120)
        assert words in home.run("explain", run["name"]).stdout
