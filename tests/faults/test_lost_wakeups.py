"""A server whose loops and waiters are never woken: every notification is lost, and nothing else is (DESIGN §2)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.faults.home import DEADLINE, Home

# But for the word that the server ends, which is no notification of a change.
DEAF = """
import runpy
from dstack.server.bus import Bus

publish = Bus.publish_many
Bus.publish_many = lambda bus, topics: publish(bus, [topic for topic in topics if topic == "shutdown"])
runpy.run_module("dstack.server", run_name="__main__", alter_sys=False)
"""
CHAIN = """\
workflows:
  - {name: first, provider: bash, artifacts: [out], commands: [echo one, echo kept > out/file]}
  - {name: second, provider: bash, depends-on: [first], commands: [echo two, cat out/file]}
  - {name: large, provider: bash, commands: ['true'], resources: {cpu: 1000}}
  - {name: endless, provider: bash, commands: [echo up, sleep 1000]}
"""


@pytest.fixture
def deaf(home: Home) -> Iterator[Home]:
    home.write(CHAIN)
    home.environment |= {"DSTACK_SERVER_POLL_WAIT": "0.3", "DSTACK_SERVER_PLACE_ON_REPORT": "0"}
    home.folder.mkdir()
    with open(home.root / "server.out", "wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", DEAF, "--embedded"], env=home.environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        home.wait(lambda: (home.server() == server.pid and home.runs() == []) or None, "the server is up")
        yield home
    finally:
        server.terminate()
        server.wait(DEADLINE)


def test_every_run_still_comes_to_its_end(deaf: Home) -> None:
    """What is lost is time: each step waits for the next tick of whoever takes it."""
    begun = time.monotonic()
    lines = [line.partition("| ")[2] for line in deaf.types("run", "second").stdout.splitlines()]
    assert lines == ["one", "two", "kept"]
    assert time.monotonic() - begun < 60
    assert "1000 CPUs asked" in deaf.types("run", "large", code=120).stderr
    name = deaf.detached("endless")
    deaf.wait_job(name, "endless", "running")
    deaf.types("stop", "-y", name)
    deaf.wait_status(name, "stopped")
    assert not deaf.of_jobs()
