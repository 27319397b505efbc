"""Where inputs come from and where artifacts go, over several runs, by run and by tag."""

from __future__ import annotations

import pytest

from dstack.server.services import delete, lineage
from dstack.server.services.errors import NotFound
from tests.support.world import World

CHAIN = """
workflows:
  - {name: prepare, provider: bash, commands: ["true"], artifacts: [data]}
  - {name: train, provider: bash, commands: ["true"], artifacts: [model], deps: [prepare]}
  - {name: evaluate, provider: bash, commands: ["true"], deps: ["train:latest"]}
  - {name: both, provider: bash, commands: ["true"], deps: [":v1"]}
"""


def chain(world: World) -> list[str]:
    """Runs of prepare, train and evaluate, each of which used the one before."""
    runner = world.runner(slots=4)
    names: list[str] = []
    for workflow in ("prepare", "train", "evaluate"):
        world.clock.advance(1)
        names.append(world.submit(CHAIN, workflow))
        world.complete(runner)
    return names


def told(found: lineage.Lineage) -> list[tuple[str, int, str, str]]:
    return [(link["direction"], link["depth"], link["source"], link["run"]) for link in found.links]


def of_run(world: World, name: str) -> lineage.Lineage:
    return world.read(lambda tx: lineage.of_run(tx, world.context.project_id, name))


def test_both_ways_as_far_as_they_go(world: World) -> None:
    prepare, train, evaluate = chain(world)
    assert told(of_run(world, train)) == [("input", 1, prepare, train), ("use", 1, train, evaluate)]
    assert told(of_run(world, prepare)) == [("use", 1, prepare, train), ("use", 2, train, evaluate)]
    found = of_run(world, evaluate)
    assert told(found) == [("input", 1, train, evaluate), ("input", 2, prepare, train)]
    near = found.links[0]
    assert (near["step"], near["job"], near["path"], near["tag"], near["partial"], near["status"]) == (
        "evaluate", "train", "model", None, False, "done",
    )  # fmt: skip
    assert (found.roots, found.cut) == ([evaluate], False)


def test_of_a_tag_only_the_workflow_it_points_to(world: World) -> None:
    prepare, train, _ = chain(world)
    world.tag(train, "v1")  # of prepare, which it reused, as well
    world.clock.advance(1)
    both = world.submit(CHAIN, "both")

    def of_tag() -> list[tuple[str, str, str]]:
        found = world.read(lambda tx: lineage.of_tag(tx, world.context.project_id, "v1", None))
        assert found.roots == sorted([prepare, train])
        return [(link["direction"], link["source"], link["run"]) for link in found.links if link["run"] == both]

    assert sorted(of_tag()) == sorted([("use", prepare, both), ("use", train, both)])
    with pytest.raises(NotFound):
        world.read(lambda tx: lineage.of_tag(tx, world.context.project_id, "v2", None))


def test_deleted_runs_are_named(world: World) -> None:
    prepare, train, evaluate = chain(world)
    assert delete.delete(world.context, [train], force=False, actor=None).deleted == [train]
    found = of_run(world, evaluate)
    assert [(link["source"], link["source_status"]) for link in found.links] == [(train, "deleted")]
    assert of_run(world, prepare).links == []
    with pytest.raises(NotFound):
        of_run(world, train)


def test_a_run_without_links(world: World) -> None:
    world.runner()
    assert of_run(world, world.submit(CHAIN, "prepare")).links == []


def test_much_is_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, *_ = chain(world)
    monkeypatch.setattr(lineage, "MOST", 1)
    found = of_run(world, prepare)
    assert (len(found.links), found.cut) == (1, True)
