"""Workflow files that are hostile or merely wrong (F35), through the command line and a real server: a place, a message
and a hint for each, within a second, and nothing submitted."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from tests.faults.home import Home

MIB = 1 << 20
SECONDS = 2.0
"""Of processor time, for server and command together: a second, twice over where the machine is busy."""
MEMORY = 160 * MIB
"""Bytes that the server may take more, at its highest."""

W = "provider: bash, commands: ['true']"
HEAD = "workflows:\n"


def bomb() -> str:
    lines = ["x-0: &a0 [x, x]", *(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    return "\n".join([*lines, "workflows: *a11\n"])


HOSTILE = {
    "10 MB": (HEAD + f"  - {{name: w, {W}}} # xxxxxxxxxxxxxx\n" * 180_000, "larger than 2 MiB"),
    "alias bomb": (bomb(), "aliases"),
    "a cycle of aliases": ("workflows: &a [*a]\n", "inside what it names"),
    "deep": ("[" * 1_000_000, "nested deeper"),
    "deep maps": ("workflows: " + "{a: " * 400_000, "nested deeper"),
    "an object": (HEAD + "  - !!python/object/apply:os.system ['touch $HOME/owned']\n", "is not allowed"),
    "tabs": (HEAD + f"\t- {{name: w, {W}}}\n", "tab"),
    "no YAML": ("\x7fELF\x00\x01\x02" * 1000, "not a text file"),
    "endless expression": (HEAD + "  - {name: w, provider: bash, commands: ['" + "${{ a" * 200_000 + "']}\n", ""),
    "very many values": (HEAD + "-\n" * 500_000, "too many values"),
    "very many mistakes": (HEAD + "".join(f"  - {{name: w{n}, provder: bash}}\n" for n in range(9000)), "did you mean"),
}
WRONG = {
    "a cycle": (
        HEAD + "".join(f"  - {{name: {a}, depends-on: [{b}], {W}}}\n" for a, b in ("ab", "bc", "ca")),
        "a → b → c → a",
    ),
    "itself": (HEAD + f"  - {{name: w, depends-on: [w], {W}}}\n", "`w` depends on itself"),
    "an unknown key": (HEAD + f"  - {{name: w, artefacts: [a], {W}}}\n", "did you mean `artifacts`?"),
    "a key twice": (HEAD + f"  - {{name: w, name: w, {W}}}\n", "`name`"),
    "a workflow twice": (HEAD + f"  - {{name: w, {W}}}\n" * 2, "`w`"),
    "an unknown workflow": (
        HEAD + f"  - {{name: w, depends-on: [prepar], {W}}}\n  - {{name: prepare, {W}}}\n",
        "prepare",
    ),
}
PLACE = re.compile(r"^\.dstack/workflows\.yaml:[1-9]\d*:[1-9]\d*: \S", re.MULTILINE)


def seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def highest(pid: int) -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_each_is_refused_with_its_place(home: Home) -> None:
    home.types("server", "start")
    home.write(HEAD + f"  - {{name: w, {W}}}\n")
    home.types("validate")
    server = home.server()
    before = highest(server)
    for kind, (text, words) in (HOSTILE | WRONG).items():
        home.write(text)
        command = ["run", "w"] if kind == "a cycle" else ["validate"]
        used = seconds(server) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = home.types(*command, code=2)
        used = seconds(server) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used
        assert PLACE.search(done.stderr), (kind, done.stderr[:500])
        assert words in done.stderr, kind
        assert len(done.stderr) < 100_000, kind
        assert used < SECONDS, (kind, used)
    assert highest(server) - before < MEMORY
    assert home.runs() == []
    assert not (home.root / "owned").exists()


def test_all_of_many_files_at_once(home: Home) -> None:
    """Each file's mistakes are told in one go."""
    for number in range(20):
        path = home.repo / ".dstack" / "workflows" / f"{number:02}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + f"  - {{name: w{number}, provder: bash, commands: [ls]}}\n")
    told = home.types("validate", code=2).stderr
    assert [line.split(":")[0] for line in told.splitlines() if line.startswith(".dstack")] == [
        f".dstack/workflows/{number:02}.yaml" for number in range(20)
    ]


def test_surprises_of_yaml_are_none(home: Home) -> None:
    """What older readers of YAML take for a truth value, a number or a time reaches a job as it was written."""
    written = (
        "no",
        "on",
        "y",
        "1e3",
        "010",
        "0o17",
        "3.10",
        "1_000",
        "1:30",
        "2022-01-01",
        "0x1F",
        ".5",
        "~user",
        "1e1000",
    )
    variables = "".join(f"    v{number}: {value}\n" for number, value in enumerate(written))
    home.write(
        HEAD
        + "  - {name: show, provider: bash, commands: ['env | grep ^V[0-9] | sort -V; echo ${{ v0 }} ${{ v6 }}']}\n"
    )
    (home.repo / ".dstack" / "variables.yaml").write_text(f"variables:\n  show:\n{variables}")
    shown = home.types("run", "show").stdout.splitlines()
    assert shown == [*(f"V{number}={value}" for number, value in enumerate(written)), "no 3.10"]
