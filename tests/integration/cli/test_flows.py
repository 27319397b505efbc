"""What a person does, from a run to its results, against a real server and runner."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.cli.conftest import DSTACK, TIMEOUT, WORKFLOWS, Home


def test_a_run_its_tag_and_its_artifacts(shared_home: Home, tmp_path: Path) -> None:
    done = shared_home.run("run", "save")
    name = re.search(r"(\S+) done in", done.stderr)
    assert name is not None
    assert "out of save: 2 files" in done.stderr
    assert shared_home.run("tag", name[1], "best").stderr == f"save:best is now {name[1]}\n"
    [tag] = shared_home.json("tags", "list")
    assert (tag["name"], tag["workflow"], tag["run"]) == ("best", "save", name[1])
    target = tmp_path / "here"
    shared_home.run("artifacts", "download", ":best", "-o", str(target))
    assert (target / "out" / "answer").read_text() == "42\n"
    assert os.readlink(target / "out" / "link") == "answer"
    shared_home.run("untag", "best")
    assert shared_home.json("tags", "list") == []


def test_a_download_overwrites_nothing_unasked(shared_home: Home, tmp_path: Path) -> None:
    name = shared_home.run("run", "-d", "save").stdout.strip()
    shared_home.run("logs", "-f", name)
    command = ["artifacts", "download", name, "-o", str(tmp_path)]
    shared_home.run(*command)
    answer = tmp_path / "out" / "answer"
    answer.write_text("43\n")
    (tmp_path / "out" / "mine").write_text("x")
    done = shared_home.run(*command, check=2)
    assert f"not overwritten: {answer} differ" in done.stderr
    assert answer.read_text() == "43\n"
    shared_home.run(*command, "--force")
    assert (answer.read_text(), (tmp_path / "out" / "mine").read_text()) == ("42\n", "x")


def test_pulling_what_a_run_has_saved(home: Home) -> None:
    text = (
        "workflows:\n  - name: save\n    provider: bash\n    artifacts: [out]\n"
        "    commands:\n      - echo ${{ value }} > out/answer\n"
    )
    (home.repository / ".dstack" / "workflows.yaml").write_text(text)
    (home.repository / ".dstackignore").write_text("out\n")
    answer = home.repository / "out" / "answer"
    done = home.run("run", "save", "--value", "1", "--pull")
    assert answer.read_text() == "1\n"
    assert "  pulled: out (1 file, 2B)\n" in done.stderr
    assert "as code" not in done.stderr
    home.run("run", "save", "--value", "2", "--pull")
    assert answer.read_text() == "2\n", "what was pulled and nobody changed is replaced"
    answer.write_text("mine\n")
    done = home.run("run", "save", "--value", "3", "--pull", check=1)
    assert answer.read_text() == "mine\n"
    assert "nothing was pulled: 1 file here would be overwritten\n  out/answer\n" in done.stderr
    (home.repository / ".dstackignore").unlink()
    done = home.run("run", "save", "--value", "4", "--pull", "--force")
    assert answer.read_text() == "4\n"
    assert "`out` would go with the next run as code" in done.stderr
    name = re.search(r"(\S+) done in", done.stderr)
    assert name is not None
    home.run("run", "save", "--value", "x;exit 3", "--pull", check=3)
    assert answer.read_text() == "4\n", "of a run that failed nothing is pulled"


def test_a_detached_run_that_fits_no_runner_fails_at_once(home: Home) -> None:
    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - {name: big, provider: bash, commands: ['true'], resources: {memory: 900TB}}\n"
    )
    for _ in range(2):  # with the server yet to be started, and with a runner there
        done = home.run("run", "-d", "big", check=120)
        assert "900TB of memory asked" in done.stderr
        assert done.stdout.strip() in done.stderr
    plan = home.run("run", "--plan", "big")
    assert "no runner that is online can run `big`" in plan.stderr
    assert "no runner has that: 900TB of memory asked" in plan.stdout


def test_the_folder_of_a_runs_results(shared_home: Home, tmp_path: Path) -> None:
    name = shared_home.run("run", "-d", "save").stdout.strip()
    shared_home.run("logs", "-f", name)
    done = shared_home.run("open", name, "--path")
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(shared_home.path)
    assert (folder / "out" / "answer").read_text() == "42\n"
    assert "Fetching 1 artifact" in done.stderr
    again = shared_home.run("open", name, "--path")
    assert (again.stdout, again.stderr) == (done.stdout, ""), "what is there is not fetched again"
    [item] = shared_home.json("open", name)
    assert item["target"] == str(folder / "out")
    shown = tmp_path / "shown"
    program = tmp_path / "xdg-open"
    program.write_text(f'#!/bin/sh\necho "$1" > {shown}.part; mv {shown}.part {shown}\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{shared_home.environment['PATH']}"
    shared_home.run("open", name, env={**shared_home.environment, "DISPLAY": ":0", "PATH": path})
    until = time.monotonic() + 20
    while not shown.exists():
        assert time.monotonic() < until, "the file manager was not started"
        select.select([], [], [], 0.02)
    assert shown.read_text().strip() == str(folder)
    name = shared_home.run("run", "-d", "hello").stdout.strip()
    shared_home.run("logs", "-f", name)
    assert f"{name} has no artifacts" in shared_home.run("open", name, check=1).stderr


def test_runs_are_deleted_with_what_they_hold(home: Home) -> None:
    saying = WORKFLOWS.replace("- echo 42", "- echo saving\n      - echo 42")
    (home.repository / ".dstack" / "workflows.yaml").write_text(saying)
    first, second = (home.run("run", "-d", "save", "-t", tag).stdout.strip() for tag in ("old", "new"))
    home.run("logs", "-f", first)
    home.run("logs", "-f", second)
    kinds = [item["kind"] for item in home.json("du")]
    assert kinds[:3] == ["store", "logs", "database"]
    assert "is tagged `old`" in home.run("rm", "-y", first, check=1).stderr
    home.run("untag", "old")
    fetched = Path(home.run("open", first, "--path").stdout.strip())
    assert home.run("prune").stdout.splitlines()[1].startswith(first)
    home.run("prune", "-y")
    assert list(fetched.parent.iterdir()) == [], "nor is there a copy of its results"
    assert [run["name"] for run in home.json("runs", "-a")] == [second]
    assert "there is no run" in home.run("logs", first, check=2).stderr
    assert len(list((home.path / "server" / "logs").glob("*.log"))) == 1
    home.run("rm", "-y", "--force", second)
    assert (home.json("runs", "-a"), home.json("tags", "list")) == ([], [])


def test_a_full_disk_behind_standard_output_is_told(shared_home: Home) -> None:
    with open("/dev/full", "w") as full:
        process = shared_home.start("runs", "--json", stdout=full)
        _, err = process.communicate(timeout=60)
    assert err.decode() == "error: standard output could not be written: No space left on device\n"
    assert process.returncode == 2


@pytest.mark.parametrize(("closed", "shown"), [("2>&-", "hello\n"), (">&-", ""), ("<&- >&- 2>&-", "")])
def test_standard_streams_that_are_closed(shared_home: Home, closed: str, shown: str) -> None:
    """As some services start programs: what would be said is lost, and nothing else."""
    before = len(shared_home.json("runs", "-a"))
    command = f"exec {shlex.quote(DSTACK)} run hello {closed}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=shared_home.repository, env=shared_home.environment, capture_output=True,
        text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, shown)
    assert "hello" in done.stderr or "2>&-" in closed
    assert len(shared_home.json("runs", "-a")) == before + 1


def test_a_folder_that_was_deleted(shared_home: Home, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for words in (["run", "hello"], ["init", "-y"], ["runs"], ["artifacts", "upload", "x"]):
        gone.mkdir()
        command = f"rmdir {shlex.quote(str(gone))} && exec {shlex.join([DSTACK, *words])}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=gone, env=shared_home.environment, capture_output=True, text=True,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            2,
            "error: the current folder does not exist any more\n  hint: change to one that does\n",
        ), words


def test_a_job_where_a_run_is_asked_for(shared_home: Home) -> None:
    [name] = [run["name"] for run in shared_home.json("runs", "-n", "1")]
    assert shared_home.run("logs", f"{name}/hello").stdout == "hello\n"
    for command in ("runs", "explain", "metrics"):
        err = shared_home.run(command, f"{name}/hello", check=2).stderr
        assert err == (
            f"error: there is no run `{name}/hello`\n  hint: `{name}` is the run; `dstack runs {name}` lists its jobs\n"
        )


def test_the_runner_has_a_help_of_its_own(shared_home: Home) -> None:
    out = shared_home.run("runner", "--help").stdout
    assert out.startswith("Usage: dstack runner [OPTIONS]\n\n  Run jobs on this machine for a server")
    assert "--local" not in out
    assert "No such option `--serve`" in shared_home.run("runner", "--serve", check=2).stderr


def test_a_failure_explained(shared_home: Home) -> None:
    done = shared_home.run("run", "fail", check=7)
    assert done.stdout == "oops\n"
    name = re.search(r"dstack explain (\S+)", done.stderr)
    assert name is not None
    out = shared_home.run("explain", name[1]).stdout
    assert "exited with code 7" in out
    assert "    oops\n" in out
    [run] = shared_home.json("runs", name[1])
    assert (run["status"], run["exit_code"], run["reason"]) == ("failed", 7, "exit-code")
    assert (run["jobs"][0]["status"], run["jobs"][0]["exit_code"]) == ("failed", 7)


def test_two_jobs_that_bring_different_files_for_one_path(home: Home) -> None:
    """It shows when they have run only, and then before the job that would have been given a mixture."""
    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n"
        "  - {name: one, provider: bash, commands: [echo 1 > o/x, echo a > o/a], artifacts: [o]}\n"
        "  - {name: two, provider: bash, commands: [echo 2 > o/x], artifacts: [o]}\n"
        "  - {name: mixed, provider: bash, depends-on: [one, two], commands: [cat o/x]}\n"
    )
    done = home.run("run", "mixed", check=119)
    assert "`one` and `two` both bring" not in done.stdout
    assert "bring different files for `o/x`" in done.stderr


def test_nothing_is_submitted_when_something_is_wrong(shared_home: Home) -> None:
    before = len(shared_home.json("runs", "-a"))
    done = shared_home.run("run", "helo", check=2)
    assert "no workflow `helo`" in done.stderr
    assert len(shared_home.json("runs", "-a")) == before


def documented(kind: str) -> set[str]:
    """The fields that docs/cli.md promises."""
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    [row] = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {kind} |")]
    return set(re.findall(r"`(\w+)`", row))


def test_json_has_the_fields_that_are_promised(shared_home: Home) -> None:
    name = shared_home.run("run", "-d", "save").stdout.strip()
    shared_home.run("logs", "-f", name)
    tags = shared_home.json("tag", name, "fields")
    [run] = shared_home.json("runs", name)
    [job] = run["jobs"]
    artifacts = shared_home.json("artifacts", "list", name)
    for kind, found in (("run", run), ("job", job), ("artifact", artifacts[0]), ("tag", tags[0])):
        assert documented(kind) <= set(found), kind
    [runner] = shared_home.json("runners")
    assert documented("runner") - {"online", "lost", "offline", "run"} == set(runner)
    assert shared_home.json("runs", "-a")[0]["name"] == name
    shared_home.run("untag", "fields")


@pytest.mark.parametrize("with_git", [False, True])
def test_the_job_sees_the_files_as_they_are_on_disk(home: Home, with_git: bool) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(home.repository), *words], check=True, capture_output=True)

    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - name: list\n    provider: bash\n    commands:\n"
        "      - find . -type f -not -path './.dstack/*' | sort | xargs head\n"
    )
    (home.repository / "a.txt").write_text("1\n")
    (home.repository / "kept.log").write_text("x\n")
    (home.repository / "secret.txt").write_text("x\n")
    (home.repository / ".dstackignore").write_text("secret.txt\n.dstackignore\n.gitignore\n")
    (home.repository / "__pycache__").mkdir()
    (home.repository / "__pycache__" / "x.pyc").write_text("x")
    if with_git:
        git("init", "-q")
        git("add", "a.txt", "secret.txt")
        (home.repository / ".gitignore").write_text("*.log\n")
        (home.repository / "new.txt").write_text("n\n")
    (home.repository / "a.txt").write_text("2\n")
    out = home.run("run", "list").stdout
    expected = {"a.txt": "2\n", "new.txt": "n\n"} if with_git else {"a.txt": "2\n", "kept.log": "x\n"}
    assert out == "\n".join(f"==> ./{name} <==\n{text}" for name, text in expected.items())


def test_a_submodule_comes_along(home: Home, tmp_path: Path) -> None:
    def git(folder: Path, *words: str) -> None:
        user = ["-c", "user.name=n", "-c", "user.email=e", "-c", "protocol.file.allow=always"]
        subprocess.run(["git", "-C", str(folder), *user, *words], check=True, capture_output=True)

    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "lib.txt").write_text("lib\n")
    git(inner, "init", "-q")
    git(inner, "add", ".")
    git(inner, "commit", "-qm", "x")
    git(home.repository, "init", "-q")
    git(home.repository, "submodule", "add", "-q", str(inner), "vendor")
    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - name: show\n    provider: bash\n    commands:\n      - cat vendor/lib.txt\n"
    )
    assert home.run("run", "show").stdout == "lib\n"


def test_code_that_changes_is_shipped_anew(home: Home) -> None:
    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - name: show\n    provider: bash\n    commands:\n      - cat text\n"
    )
    for text in ("one\n", "two\n", "six\n"):
        (home.repository / "text").write_text(text)
        assert home.run("run", "show").stdout == text


def test_a_store_that_lost_the_code_gets_it_again(home: Home) -> None:
    import shutil

    home.run("run", "hello")
    home.run("server", "stop")
    # The database goes with the store: the command line still believes that both have its code.
    shutil.rmtree(home.path / "server")
    assert home.run("run", "hello").stdout == "hello\n"


def test_runs_and_tags_stay_when_a_remote_is_added(home: Home) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=home.repository, env=home.environment, check=True, capture_output=True)

    git("init")
    name = home.run("run", "-d", "-t", "best", "save").stdout.strip()
    home.run("logs", "-f", name)
    git("remote", "add", "origin", "https://example.org/team/project.git")
    assert [run["name"] for run in home.json("runs")] == [name]
    assert [tag["name"] for tag in home.json("tags", "list")] == ["best"]
    assert [item["path"] for item in home.json("artifacts", "list", ":best")] == ["out"]
    home.run("untag", "best")
    assert home.json("tags", "list") == []
