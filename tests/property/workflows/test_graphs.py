"""The order of a run, for any graph."""

from __future__ import annotations

import graphlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dstack.providers import registry
from dstack.workflows import Invalid, UnknownTag, load, plan
from dstack.workflows.dependencies import order

graphs = (
    st.integers(1, 8)
    .flatmap(
        lambda size: st.fixed_dictionaries(
            {f"w{i}": st.lists(st.sampled_from(range(size)), max_size=4) for i in range(size)}
        )
    )
    .map(lambda graph: {name: [f"w{i}" for i in needs] for name, needs in graph.items()})
)


def reached(graph: dict[str, list[str]], root: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = graph[name]
            waiting.extend(graph[name])
    return found


def has_cycle(graph: dict[str, list[str]]) -> bool:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return True
    return False


@given(graphs)
def test_a_cycle_is_told_exactly_when_there_is_one(graph: dict[str, list[str]]) -> None:
    cycles: list[list[str]] = []

    names = order(graph, graph.__getitem__, cycles.append)

    assert sorted(names) == sorted(graph)
    assert bool(cycles) == has_cycle(graph)
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(after in graph[before] for before, after in pairwise(cycle))


@given(graphs)
def test_a_run_holds_what_its_root_reaches_in_an_order_that_works(graph: dict[str, list[str]]) -> None:
    text = "workflows:\n" + "".join(
        f"  - {{name: {name}, provider: bash, commands: [true], depends-on: [{', '.join(needs)}]}}\n"
        for name, needs in graph.items()
    )

    def no_tags(*_: object) -> list[object]:
        raise UnknownTag

    try:
        steps = plan(
            load({".dstack/workflows.yaml": text}, registry()),
            "w0",
            [],
            run_name="goose-1",
            read_text=lambda path: None,
            resolve_tag=no_tags,  # pyright: ignore[reportArgumentType]
            newest_done=no_tags,  # pyright: ignore[reportArgumentType]
        ).steps
    except Invalid:
        assert has_cycle(graph)
        return
    assert not has_cycle(graph)
    assert {step.name for step in steps} == set(reached(graph, "w0"))
    done: set[str] = set()
    for step in steps:
        assert set(step.needs) == set(graph[step.name])
        assert done.issuperset(step.needs)
        done.add(step.name)
