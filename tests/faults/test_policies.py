"""Retries and conditions with real processes that are killed at the worst moment."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.faults.home import Home

TWICE = """\
workflows:
  - name: job
    provider: bash
    retry: {{on: {on}, max: 1, backoff: {backoff}}}
    commands:
      - echo attempt $DSTACK_ATTEMPT
      - if [ $DSTACK_ATTEMPT = 1 ]; then {first}; fi
      - echo through
  - {{name: mourn, provider: bash, depends-on: [job], if: failed(), commands: [echo mourning]}}
  - {{name: after, provider: bash, depends-on: [job, mourn], if: always(), commands: [echo after]}}
"""


def test_a_job_that_is_lost_with_its_runner_is_tried_again(home: Home) -> None:
    """The agent, the job and what the agent knew of it are gone: the policy covers that (F3)."""
    home.write(TWICE.format(on="lost", backoff="0", first="sleep 1000"))
    following = home.start("run", "after")
    home.wait(lambda: [run for run in home.runs() if run["jobs"][0]["status"] == "running"] or None, "it runs")
    [run] = home.runs()
    home.wait(lambda: home.log(run["name"])["job"] == b"attempt 1\n" or None, "what it said has arrived")
    server = home.server()
    home.kill(server, signal.SIGSTOP)  # so that it starts no other runner meanwhile
    home.kill(home.runner())
    home.wait(lambda: not [_end(pid) for pid in home.of_jobs()], "nothing of the job is left")
    [attempt] = home.attempts()
    shutil.rmtree(attempt)
    home.kill(server, signal.SIGCONT)
    done = home.ends(following, 0)
    assert done.stdout.count("attempt 1") == 1
    assert done.stdout.count("attempt 2") == 1
    assert "after" in done.stdout
    [run] = home.runs()
    assert _states(run) == {"job": ("done", 2), "mourn": ("skipped", 0), "after": ("done", 1)}


def test_a_wrapper_that_was_killed_is_tried_again(home: Home) -> None:
    home.write(TWICE.format(on="unknown-exit", backoff="100ms", first="kill -9 $PPID; exit 0"))
    home.types("run", "after")
    [run] = home.runs()
    assert _states(run) == {"job": ("done", 2), "mourn": ("skipped", 0), "after": ("done", 1)}


def test_a_server_that_is_killed_while_a_job_backs_off(home: Home) -> None:
    """The back-off is in the database: whoever serves next keeps it, and the rules hold after it."""
    home.write(TWICE.format(on="failure", backoff="2s", first="exit 5"))
    following = home.start("run", "after")
    home.wait(lambda: [run for run in home.runs() if _backs_off(run)] or None, "it backs off")
    home.kill(home.server())
    home.ends(following, 0)
    [run] = home.runs()
    assert _states(run) == {"job": ("done", 2), "mourn": ("skipped", 0), "after": ("done", 1)}


@pytest.mark.parametrize("point", ["before:2", "after:2", "after:3"])
def test_a_server_that_is_killed_as_rules_are_decided(home: Home, point: str) -> None:
    """Whether the report that decides them was stored or not: it is sent again, and decides them once (F1, F10)."""
    home.write(TWICE.format(on="lost", backoff="0", first="exit 5"))
    home.environment |= {
        "DSTACK_FAULT": f"commit:runners.events:{point}", "DSTACK_FAULT_ONCE": str(home.root / "once"),
    }  # fmt: skip
    done = home.types("run", "after", code=5)
    assert (home.root / "once").exists(), "the point was never reached"
    assert done.stdout.count("mourning") == 1
    [run] = home.runs()
    assert _states(run) == {"job": ("failed", 1), "mourn": ("done", 1), "after": ("done", 1)}


def _states(run: dict[str, object]) -> dict[str, tuple[str, int]]:
    jobs: list[dict[str, object]] = run["jobs"]  # pyright: ignore[reportAssignmentType] -- of JSON
    return {str(job["name"]): (str(job["status"]), int(str(job["attempt"]))) for job in jobs}


def _backs_off(run: dict[str, object]) -> bool:
    return _states(run)["job"] == ("queued", 1)


def _end(pid: int) -> None:
    """Kill a process that may be ending by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has
