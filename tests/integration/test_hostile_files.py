"""Files made to hang, crash or exhaust the server are refused within a second of its time (F35)."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from dstack.providers import registry
from dstack.workflows import Invalid, load

Files = dict[str, str]
FILE = ".dstack/workflows.yaml"
HEAD = "workflows:\n- name: a\n  provider: bash\n  commands: "
MOST = 2 * 2**20
LIMIT = 1.0
"""Seconds of processor time …"""
REFERENCE = 0.05
"""… on a machine that reads `HONEST` in as many. A second costs more where programs beside it take the caches away."""
HONEST = "workflows:\n" + "".join(f"- {{name: w{i}, provider: bash, commands: ['true']}}\n" for i in range(1000))
TRIES = 5


def bomb(template: str, item: str) -> str:
    lines = [f"a0: &a0 {template.format(item.format(i=0, alias='x'))}"]
    for level in range(1, 12):
        items = ", ".join(item.format(i=i, alias=f"*a{level - 1}") for i in range(9))
        lines.append(f"a{level}: &a{level} {template.format(items)}")
    return "\n".join(lines)


def chain() -> str:
    links = [f"x-{i}: &a{i} {{k: *a{i - 1}}}" for i in range(1, 2000)]
    return "\n".join(["x-0: &a0 ['${{ seed }}']", *links, f"{HEAD}*a1999"])


def workflows(count: int, keys: str) -> str:
    return "workflows:\n" + "".join(f"- {{name: w{i}, {keys.format(i=i)}}}\n" for i in range(count))


def folder(count: int, text: str) -> Files:
    return {f".dstack/workflows/{number:05}.yaml": text for number in range(count)}


HOSTILE: dict[str, Callable[[], Files]] = {
    "lists of lists by alias": lambda: {FILE: bomb("[{}]", "{alias}")},
    "mappings of mappings by alias": lambda: {FILE: bomb("{{{}}}", "k{i}: {alias}")},
    "deep only by alias": lambda: {FILE: chain()},
    "one value by a hundred thousand aliases": lambda: {FILE: HEAD + "&x [a, b, c]\n- " + "*x, " * 100_000},
    "merges": lambda: {
        FILE: "x-b: &b {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}\n" + workflows(3000, "<<: *b")
    },
    "a merge of a hundred thousand": lambda: {FILE: f"x-b: &b {{a: 1}}\nworkflows:\n- <<: [{'*b, ' * 100_000}]"},
    "deep lists": lambda: {FILE: "[" * 500_000},
    "deep mappings": lambda: {FILE: "{a: " * 300_000},
    "deep by indentation": lambda: {FILE: "\n".join(" " * i + "a:" for i in range(2000))},
    "10 MB": lambda: {FILE: "a: b\n" * 2_000_000},
    "one text of 50 MB": lambda: {FILE: HEAD + "x" * 50_000_000},
    "100 files of 2 MiB": lambda: folder(100, "#" * (MOST - 1)),
    "values without end": lambda: {FILE: "-\n" * 900_000},
    "files full of values": lambda: folder(50, "-\n" * 100_000),
    "a thousand files of bombs": lambda: folder(1000, bomb("[{}]", "{alias}")),
    "a million files": lambda: folder(1_000_000, ""),
    "ten thousand empty files": lambda: {**folder(9999, ""), FILE: "a: 'b"},
    "five thousand wrong files": lambda: folder(5000, "a: 'b"),
    "a chain of includes": lambda: {
        FILE: "include: 0.yaml",
        **{f"{i}.yaml": f"include: {i + 1}.yaml" for i in range(3000)},
    },
    "expressions": lambda: {FILE: HEAD + "[" + '"${{ x }}", ' * 120_000 + "]"},
    "expressions that are none": lambda: {FILE: HEAD + "[" + '"${{ x", ' * 49_000 + "]"},
    "an open quote": lambda: {FILE: HEAD + "'" + "b\n" * (MOST // 2 - 100)},
    "the last line misplaced": lambda: {FILE: "a:\n" + "    - b\n" * (MOST // 9) + "  c"},
    "duplicate keys": lambda: {FILE: "workflows:\n- name: a\n" + "  k: 1\n" * 90_000},
    "unknown keys": lambda: {FILE: HEAD + "[x]\n" + "".join(f"  key{i}: 1\n" for i in range(60_000))},
    "unknown providers": lambda: {FILE: workflows(25_000, "provider: bash{i}")},
    "names that are nearly right": lambda: {
        FILE: workflows(12_000, "provider: bash, commands: [x], depends-on: [w{i}a]")
    },
    "a tangle": lambda: {
        FILE: workflows(300, f"provider: bash, commands: [x], depends-on: [{', '.join(f'w{j}' for j in range(300))}]")
    },
    "colons": lambda: {FILE: ":" * (MOST - 1)},
    "quotes": lambda: {FILE: '"' * (MOST - 1)},
    "stars": lambda: {FILE: "*a " * (MOST // 3 - 1)},
    "dashes": lambda: {FILE: "-" * (MOST - 1)},
    "zero bytes": lambda: {FILE: "\0" * (MOST - 1)},
    "half of a pair": lambda: {FILE: "a: \ud800"},
    "a Python object": lambda: {FILE: HEAD + "!!python/object/apply:os.system [id]"},
    "an endless number": lambda: {FILE: HEAD + "[x]\n  timeout: " + "9" * 1_000_000},
    "an endless list": lambda: {FILE: HEAD + "[" + "~, " * 190_000 + "]"},
    "artifacts": lambda: {FILE: HEAD + "[x]\n  artifacts: [" + "a, " * 150_000 + "]"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_within_a_second(name: str) -> None:
    files = HOSTILE[name]()
    load({FILE: HONEST}, registry())  # what is imported once

    def attempt() -> float:
        began = time.process_time()
        load({FILE: HONEST}, registry())
        read = time.process_time()
        with pytest.raises(Invalid) as caught:
            load(files, registry())
        spent = time.process_time() - read
        assert len(caught.value.diagnostics) <= 600
        return spent / max(1.0, (read - began) / REFERENCE)

    assert any(attempt() <= LIMIT for _ in range(TRIES))


@pytest.mark.parametrize("name", ["10 MB", "lists of lists by alias", "100 files of 2 MiB", "deep lists"])
def test_it_costs_no_memory_to_speak_of(name: str) -> None:
    files = HOSTILE[name]()
    tracemalloc.start()
    try:
        with pytest.raises(Invalid):
            load(files, registry())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 64 * 2**20


def test_ten_thousand_workflows_are_no_attack() -> None:
    found = load(
        {FILE: workflows(10_000, "provider: bash, commands: ['true'], artifacts: [o], help: w{i}")}, registry()
    )

    assert len(found) == 10_000
