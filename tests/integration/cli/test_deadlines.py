"""Deadlines of a second are kept though the server looks by itself only once in a minute."""

from __future__ import annotations

from tests.integration.cli.conftest import Home

WORKFLOWS = """\
workflows:
  - name: flaky
    provider: bash
    retry: {on: failure, max: 2, backoff: 0.1}
    commands: ['test "$DSTACK_ATTEMPT" = 3']
  - name: slow
    provider: bash
    timeout: 0.5
    commands: [sleep 120]
"""


def test_a_failure_tells_of_the_attempt_that_it_was(home: Home) -> None:
    never = WORKFLOWS.replace('test "$DSTACK_ATTEMPT" = 3', "exit 3")
    (home.repository / ".dstack" / "workflows.yaml").write_text(never)
    home.run("run", "flaky", check=3)
    [run] = home.json("runs")
    assert "flaky exited with code 3 (attempt 3)" in home.run("explain", run["name"]).stdout


def test_a_retry_and_a_time_limit_come_when_they_are_due(home: Home) -> None:
    home.environment["DSTACK_SERVER_TICK"] = "300"  # longer than a command of a test may take
    (home.repository / ".dstack" / "workflows.yaml").write_text(WORKFLOWS)
    said = home.run("run", "flaky").stderr
    assert [line for line in said.splitlines() if "attempt" in line] == ["flaky: attempt 2", "flaky: attempt 3"]
    home.run("run", "slow", check=124)
    [slow, flaky] = home.json("runs")
    assert flaky["jobs"][0]["attempt"] == 3
    assert (slow["status"], slow["reason"]) == ("failed", "timeout")
