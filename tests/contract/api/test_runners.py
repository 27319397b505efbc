"""The runners that a server knows, and what they hold."""

from __future__ import annotations

from dstack.domain.resources import GpuCard
from tests.contract.api.test_routes import done, fields_of, submitted
from tests.support.http import Asked
from tests.support.runner import GIB


def test_runners_with_their_resources_and_jobs(asked: Asked) -> None:
    cards = [GpuCard("V100", 16 * GIB)] * 2
    south = asked.world.runner("south", slots=4, memory=32 * GIB, gpus=cards)
    done(asked, south)
    name = submitted(asked, "prepare")
    asked.world.place()
    asked.world.runner("north")

    found = asked.get("runners")
    assert found["next"] is None
    assert [(item["name"], item["jobs"]) for item in found["items"]] == [
        ("north", []), ("south", [{"run": name, "name": "prepare", "status": "assigned"}]),
    ]  # fmt: skip
    shown = found["items"][1]
    assert set(shown) == fields_of("Runner")
    assert south.runner_id is not None
    assert shown["id"] == f"runner_{south.runner_id.hex}"
    assert (shown["status"], shown["status_text"], shown["draining"]) == ("online", "Online", False)
    assert (shown["cpu"], shown["slots"], shown["memory"]) == (4, 4, 32 * GIB)
    assert shown["gpus"] == [{"name": "V100", "memory": 16 * GIB}] * 2
    assert shown["heartbeat_at"] >= shown["registered_at"] > 0


def test_one_that_is_silent_is_shown_and_one_that_left_is_not(asked: Asked) -> None:
    world = asked.world
    world.runner("left").goodbye()
    world.runner("silent")
    submitted(asked, "prepare")
    world.place()
    world.clock.advance(world.settings.lease + 1)
    world.sweep()
    [shown] = asked.get("runners")["items"]
    assert (shown["name"], shown["status"], shown["status_text"]) == ("silent", "lost", "Unreachable")
    assert shown["lost_at"] is not None
    everything = asked.get("runners", all=1)["items"]
    assert [(item["name"], item["status_text"]) for item in everything] == [
        ("left", "Offline"), ("silent", "Unreachable"),
    ]  # fmt: skip
