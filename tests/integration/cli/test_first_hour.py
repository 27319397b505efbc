"""A project that was never meant for dstack, from `dstack init` to its results."""

from __future__ import annotations

import shutil

from tests.integration.cli.conftest import Home

TRAIN = """\
\"\"\"Train something.\"\"\"
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--output-dir", default="checkpoints")
options = parser.parse_args()
for epoch in range(options.epochs):
    print("epoch", epoch)
folder = pathlib.Path(options.output_dir)
folder.mkdir(exist_ok=True)
(folder / "model.txt").write_text(str(options.epochs))
"""


def test_from_a_script_to_a_versioned_result(home: Home) -> None:
    shutil.rmtree(home.repository / ".dstack")
    (home.repository / "train.py").write_text(TRAIN)
    done = home.run("init", "-y")
    assert "Next: dstack run train" in done.stderr
    assert home.run("validate").stdout == "1 workflow: no errors\n"
    done = home.run("run", "train", "--epochs", "3")
    assert done.stdout == "epoch 0\nepoch 1\nepoch 2\n"
    [run] = home.json("runs")
    [artifact] = home.json("artifacts", "list", run["name"])
    assert (artifact["path"], artifact["files"]) == ("checkpoints", 1)
    assert [
        check for check in home.json_of_doctor() if check["status"] == "problem" and check["name"] != "packages"
    ] == []


def test_a_misspelt_option_is_told_of_before_anything_runs(home: Home) -> None:
    (home.repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - {name: prepare, provider: bash, commands: [echo prepared]}\n"
        "  - {name: train, provider: python, script: t.py, depends-on: [prepare]}\n"
    )
    (home.repository / ".dstack" / "variables.yaml").write_text("variables:\n  train:\n    epochs: 3\n")
    (home.repository / "t.py").write_text("import sys\nprint(sys.argv[1:])\n")
    done = home.run("run", "train", "--epoch", "5")
    assert done.stderr.startswith(
        "warning: `--epoch` goes to the program of `train`\n  hint: did you mean `--epochs`?\nRUN "
    )
    assert "['--epoch', '5']" in done.stdout
    assert "warning" not in home.run("run", "train", "--", "--epoch", "5").stderr


def test_a_provider_runs_what_stands_on_the_command_line(home: Home) -> None:
    """Also in a folder that is no repository yet."""
    shutil.rmtree(home.repository / ".dstack")
    (home.repository / "train.py").write_text(TRAIN)
    assert home.run("run", "python", "train.py", "--epochs", "1").stdout == "epoch 0\n"
    assert home.run("run", "bash", "-c", "ls; exit 3", check=3).stdout == "train.py\n"
    done = home.run("run", "-d", "bash", "-c", "echo 1 > out/x", "-a", "out")
    name = done.stdout.strip()
    home.run("logs", "-f", name)
    assert [item["path"] for item in home.json("artifacts", "list", name)] == ["out"]
    assert "did you mean `python`?" in home.run("run", "pyhton", "train.py", check=2).stderr


def test_passwords_of_the_shells_addresses_show_in_no_log(home: Home) -> None:
    home.environment["HTTPS_PROXY"] = "http://me:hunter2%40secret@127.0.0.1:1"
    home.environment["PIP_INDEX_URL"] = "http://tok3n-of-mine@127.0.0.1:1/simple"
    # Variables of workflows are no secrets, whatever they are called.
    (home.repository / ".dstack" / "variables.yaml").write_text("variables: {global: {monitor_key: val_loss}}")
    command = "printenv HTTPS_PROXY PIP_INDEX_URL MONITOR_KEY; echo hunter2@secret; echo me"
    said = home.run("run", "bash", "-c", command).stdout
    assert said == "http://me:***@127.0.0.1:1\nhttp://***@127.0.0.1:1/simple\nval_loss\n***\nme\n"


def test_the_password_of_an_address_that_a_job_is_given_shows_nowhere(home: Home) -> None:
    given = ("-e", "DATABASE_URL=postgres://me:hunter2%40home@host/db")
    job = ("bash", "-c", "printenv DATABASE_URL | tee /dev/stderr | cut -d: -f3 | cut -d@ -f1; false $DATABASE_URL")
    planned = [home.run("run", *options, *given, *job) for options in (("--plan",), ("--plan", "--json"))]
    done = home.run("run", *given, *job, check=1)
    assert {"postgres://me:***@host/db", "***"} <= set(done.stdout.splitlines())
    [run] = home.json("runs", "-a")
    told = [
        home.run(*words, run["name"])
        for words in (("explain",), ("explain", "--json"), ("logs",), ("resume", "--plan", *given))
    ]
    told += [home.run("runs", "-a", "--json")]
    for said in (*planned, done, *told):
        assert "hunter2" not in said.stdout + said.stderr


def test_a_pipe_that_was_left_early_fails_and_says_what_to_do(home: Home) -> None:
    done = home.run("run", "bash", "-c", "yes | head -n 1", check=141)
    assert done.stdout == "y\n"
    assert "signal 13 (SIGPIPE) or exit code 141" in done.stderr
    assert "\n  hint: a program of a pipe still wrote when the one that reads it had ended" in done.stderr
    [run] = home.json("runs")
    assert "`set +o pipefail`" in home.run("explain", run["name"]).stdout
    assert home.run("run", "bash", "-c", "set +o pipefail; yes | head -n 1").stdout == "y\n"
