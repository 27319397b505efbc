"""Secrets with real processes (F34, I8): the job has them, and nothing else does, whatever is killed when."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.faults.home import Home

TOKEN = "hf_aB3/+x9'qZ \"7\\pü"
"""Of several kinds of characters, so that each escape of it is different."""
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nabc\nq8Lp3J7Hk2vN0xYz\n-----END PRIVATE KEY-----\n"
SHELL = "w4ndb-0123456789abcdef"
OLD, NEW = "old-v4lue-000111", "new-v4lue-222333"

SHOUT = """
import base64, json, logging, os, shlex, subprocess, sys, time, urllib.parse

token, key, shell = os.environ["TOKEN"], os.environ["KEY"], os.environ["WANDB_KEY"]
print("plain", token, shell)
print("within", f"https://me:{token}@example.org")
print("base64", base64.b64encode(b"user:" + token.encode() + b"x").decode())
print("wrapped", base64.encodebytes(b"some longer text before " + (key + token).encode()).decode())
print("hex", token.encode().hex())
print("url", urllib.parse.quote(token), urllib.parse.quote_plus(token))
print("json", json.dumps({"token": token, "key": key}))
print("repr", repr(token), repr(token.encode()))
print("shell", shlex.quote(token))
print(key)
for line in key.splitlines():
    print("line", line)
for char in shell:
    sys.stdout.write(char)
    sys.stdout.flush()
    time.sleep(0.01)
print()
subprocess.run(["bash", "-xc", 'echo "$TOKEN" | base64 >&2; printf "%q\\n" "$TOKEN"'])
logging.error(json.dumps({"message": str(KeyError(token))}))
with open(os.environ["DSTACK_METRICS"], "a") as file:
    file.write(json.dumps({f"loss of {shell}": 1.0}) + "\\n")
raise ValueError(token)
"""
WORKFLOWS = f"""\
workflows:
  - name: shout
    provider: bash
    environment:
      - TOKEN=${{{{ secrets.TOKEN }}}}
      - KEY=${{{{ secrets.KEY }}}}
      - WANDB_KEY
    commands:
      - echo "in a command ${{{{ secrets.TOKEN }}}}"
      - {sys.executable} shout.py
  - name: gated
    provider: bash
    environment: {{VALUE: "${{{{ secrets.VALUE }}}}"}}
    commands:
      - echo "first $VALUE"
      - echo $$ >> "$HOME/begun"
      - until [ -e "$HOME/go" ]; do sleep 0.02; done
      - echo "then $VALUE"
"""


@pytest.fixture(autouse=True)
def repository(home: Home) -> None:
    home.write(WORKFLOWS)
    (home.repo / "shout.py").write_text(SHOUT)


def forms_of(*values: str) -> list[bytes]:
    """What of secrets must be nowhere: plainly written, not with the masker's own list."""
    found: list[bytes] = []
    for value in values:
        raw = value.encode()
        found += [raw, base64.b64encode(raw)[:-4], raw.hex().encode(), quote(value).encode()]
        found += [json.dumps(value)[1:-1].encode(), repr(value)[1:-1].encode()]
        found += [line.encode() for line in value.splitlines() if len(line) > 12 and not line.startswith("---")]
    return found


def holding(folder: Path, forms: list[bytes]) -> dict[str, bytes]:
    """Files below `folder` that hold one of `forms`."""
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found |= {str(path): form for form in forms if form in data}
    return found


def sealed(home: Home) -> int:
    """How many values of runs and attempts the database keeps."""
    with closing(sqlite3.connect(home.folder / "server/dstack.db")) as connection:
        query = "SELECT (SELECT count(*) FROM run_values) + (SELECT count(*) FROM attempt_secrets)"
        return connection.execute(query).fetchone()[0]


def test_they_are_nowhere_but_in_the_job(home: Home) -> None:
    """Not in its output in any form, nor in any file, row, answer or argument, once the run is over."""
    home.types("secrets", "add", "TOKEN", TOKEN)
    home.types("secrets", "add", "KEY", "--", KEY)
    home.environment["WANDB_KEY"] = SHELL
    plan = home.types("run", "--plan", "--json", "shout")
    done = home.types("run", "shout", code=1)
    (run,) = home.runs()
    name = run["name"]
    said = done.stdout + done.stderr + plan.stdout
    for words in (
        ["runs", "--json"],
        ["logs", name],
        ["explain", name],
        ["metrics", "--json", name],
        ["secrets", "list"],
    ):
        shown = home.types(*words)
        said += shown.stdout + shown.stderr
    forms = forms_of(TOKEN, KEY, SHELL)
    assert not [form for form in forms if form in said.encode()]
    assert "plain *** ***\n" in done.stdout
    assert "in a command ***\n" in done.stdout
    assert "within https://me:***@example.org\n" in done.stdout
    assert "line abc\n" in done.stdout, "short lines are no secrets"
    assert "ValueError: ***\n" in done.stdout
    assert done.stdout.count("***") > 25
    assert "loss of ***" in said
    home.wait(lambda: not home.attempts() or None, "the attempt's folder is gone")
    assert holding(home.folder, forms) == {}
    assert sealed(home) == 0
    assert (home.folder / "server/secrets.key").stat().st_mode & 0o777 == 0o600


def test_while_it_runs_they_are_in_its_environment_and_its_spool_alone(home: Home) -> None:
    home.types("secrets", "add", "VALUE", OLD)
    name = home.detached("gated")
    home.wait_file(home.root / "begun")
    (attempt,) = home.attempts()
    assert set(holding(home.folder, forms_of(OLD))) == {str(attempt / "spool")}
    assert (attempt / "spool").stat().st_mode & 0o777 == 0o600
    assert attempt.stat().st_mode & 0o777 == 0o700
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (*home.of_jobs(), home.runner(), home.server())]
    assert not any(OLD.encode() in command for command in commands)
    for pid in (home.runner(), home.server()):
        assert OLD.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    (home.root / "go").touch()
    home.wait_status(name, "done")


@pytest.mark.parametrize("point", ["runner.spawn:after", "runner.ship:before", "runner.ship:after"])
def test_an_agent_that_is_killed_between_having_them_and_shipping(home: Home, point: str) -> None:
    """The next agent fetches them again, and goes on with the masked output where the last one was."""
    (home.root / "go").touch()
    home.environment |= {"DSTACK_RUNNER_FAULT": point, "DSTACK_FAULT_ONCE": str(home.root / "fired")}
    home.types("secrets", "add", "VALUE", OLD)
    done = home.types("run", "gated")
    assert (home.root / "fired").exists()
    assert done.stdout == "first ***\nthen ***\n"
    (run,) = home.runs()
    assert home.log(run["name"]) == {"gated": b"first ***\nthen ***\n"}
    assert sealed(home) == 0


def test_a_secret_that_changes_and_goes_while_a_job_runs(home: Home) -> None:
    """The job keeps what it began with, and an agent that is started anew masks that."""
    home.types("secrets", "add", "VALUE", OLD)
    name = home.detached("gated")
    home.wait_file(home.root / "begun")
    server = home.server()
    home.kill(server, signal.SIGSTOP)  # so that it starts no other runner meanwhile
    home.kill(home.runner())
    home.kill(server, signal.SIGCONT)
    home.types("secrets", "update", "VALUE", NEW)
    home.types("secrets", "delete", "-y", "VALUE")
    home.wait(lambda: home.runner() or None, "the server starts another runner")
    (home.root / "go").touch()
    home.wait_status(name, "done")
    assert home.log(name) == {"gated": b"first ***\nthen ***\n"}
    home.wait(lambda: not home.attempts() or None, "the attempt's folder is gone")
    assert holding(home.folder, forms_of(OLD, NEW)) == {}


@pytest.mark.parametrize("point", ["commit:secrets.pin:before", "commit:secrets.pin:after"])
def test_a_server_that_is_killed_while_it_hands_them_out(home: Home, point: str) -> None:
    (home.root / "go").touch()
    home.environment |= {"DSTACK_FAULT": point, "DSTACK_FAULT_ONCE": str(home.root / "fired")}
    home.types("secrets", "add", "VALUE", OLD)
    done = home.types("run", "gated")
    assert (home.root / "fired").exists()
    assert done.stdout == "first ***\nthen ***\n"
    assert sealed(home) == 0


def test_a_lost_key_is_named_and_nothing_is_destroyed(home: Home) -> None:
    (home.root / "go").touch()
    home.types("secrets", "add", "VALUE", OLD)
    home.types("server", "stop")
    key = home.folder / "server/secrets.key"
    key.rename(home.root / "kept.key")
    done = home.types("run", "gated", code=2)
    assert f"the key of the secrets, {key}, is missing" in done.stderr
    assert str(key) in home.types("secrets", "add", "OTHER", NEW, code=2).stderr
    assert not key.exists()
    (home.root / "kept.key").rename(key)
    assert home.types("run", "gated").stdout == "first ***\nthen ***\n"


def test_the_name_of_a_file_that_is_saved_holds_one(home: Home) -> None:
    home.write(
        "workflows:\n  - name: naming\n    provider: bash\n    artifacts: [out]\n"
        "    environment: {V: '${{ secrets.VALUE }}'}\n    commands: ['touch \"out/run-$V.txt\"']\n"
    )
    home.types("secrets", "add", "VALUE", OLD)
    done = home.types("run", "naming")
    assert "names of files in the artifact out hold a secret" in done.stdout
    assert "run-***.txt" in done.stdout
    assert OLD not in done.stdout + done.stderr
