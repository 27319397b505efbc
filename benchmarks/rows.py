"""The rows: what is measured, with which cases. The budgets they are held against are in report.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import graphs
from benchmarks.language import complete_row, plan_row, validate_row
from benchmarks.measure import Case, CommandFailed, Row
from benchmarks.ours import SLOTS, Dstack, plain_environment, write
from benchmarks.peers import Peer, Shape
from benchmarks.submissions import submit_row

NAMES = (
    "help",
    "hello",
    "cold",
    "first",
    "fan-100",
    "fan-1000",
    "fan-10000",
    "chain",
    "lines-buffered",
    "lines-unbuffered",
    "submit-10000-first",
    "submit-10000-unchanged",
    "submit-10000-changed",
    "validate-200",
    "plan-10000",
    "complete",
)
"""In this order; `idle` is watched before them."""

LINES, WIDTH = 1_000_000, graphs.WIDTH

Makers = Mapping[str, Callable[[], Row]]
"""What makes a row, by the row's name, in the order in which they are measured."""


def run_rows(dstack: Dstack, peers: Sequence[Peer], scratch: Path) -> Makers:
    """Rows of runs and of the command line."""
    made: Makers = {
        "help": lambda: help_row(dstack, peers, scratch),
        "hello": lambda: hello_row(dstack, peers, scratch),
        "cold": lambda: cold_row(dstack, scratch),
        "first": lambda: first_row(dstack, scratch),
        "fan-100": lambda: fan_row(dstack, peers, scratch, 100),
        "fan-1000": lambda: fan_row(dstack, peers, scratch, 1000),
        "fan-10000": lambda: fan_row(dstack, [], scratch, 10_000),
        "chain": lambda: chain_row(dstack, peers, scratch, 100),
        "lines-buffered": lambda: lines_row(dstack, peers, scratch, buffered=True),
        "lines-unbuffered": lambda: lines_row(dstack, [], scratch, buffered=False),
        "submit-10000-first": lambda: submit_row(dstack, peers, scratch, "first"),
        "submit-10000-unchanged": lambda: submit_row(dstack, peers, scratch, "unchanged"),
        "submit-10000-changed": lambda: submit_row(dstack, peers, scratch, "changed"),
        "validate-200": lambda: validate_row(dstack, scratch),
        "plan-10000": lambda: plan_row(dstack, scratch),
        "complete": lambda: complete_row(dstack, _python(dstack, scratch), scratch),
    }
    return {name: made[name] for name in NAMES}


def chosen(makers: Makers, names: Collection[str], *, by_name_only: Collection[str] = ()) -> Iterator[Row]:
    """The rows that `names` asks for (all when empty), each made when its turn comes. Raises ValueError.

    Those of `by_name_only` are left out unless they are asked for.
    """
    unknown = {wanted for wanted in names if wanted != "idle" and not any(_is(name, wanted) for name in makers)}
    if unknown:
        raise ValueError(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(makers)}, idle")
    for name, make in makers.items():
        if any(_is(name, wanted) for wanted in names) or not (names or name in by_name_only):
            yield make()


def any_wanted(names: Collection[str], asked: Collection[str]) -> bool:
    """Whether any of the rows `names` is measured where `asked` are asked for."""
    return not asked or any(_is(name, wanted) for name in names for wanted in asked)


def _is(name: str, wanted: str) -> bool:
    """Whether `wanted` asks for row `name`: `fan-100` for that one, `fan` for all of them."""
    return name == wanted or name.startswith(f"{wanted}-")


def help_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path) -> Row:
    ours = Case("dstack", [dstack.program, "--help"], scratch, dstack.environment)
    return Row("help", "`--help`", [ours, _python(dstack, scratch), *(peer.help_case(scratch) for peer in peers)], 15)


def hello_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path) -> Row:
    ours = _hello(dstack, scratch)
    dstack("run", "hello", cwd=ours.cwd)
    others = [peer.case("hello", 1, scratch) for peer in peers]
    make = _make("make", "hello", graphs.make_hello(), "hello", scratch)
    return Row(
        "hello", "one job that prints a line, everything running", [ours, _python(dstack, scratch), make, *others], 11
    )


def cold_row(dstack: Dstack, scratch: Path) -> Row:
    return Row("cold", "the same, server and runner not running", [_hello(dstack, scratch, before="stop")])


def first_row(dstack: Dstack, scratch: Path) -> Row:
    return Row("first", "the same, first ever, with an empty home", [_hello(dstack, scratch, before="forget")])


def fan_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path, steps: int) -> Row:
    cwd = write(scratch / f"dstack-fan-{steps}", graphs.dstack_fan(steps))
    ours = Case(
        "dstack",
        [dstack.program, "run", "all"],
        cwd,
        dstack.environment,
        before=lambda: dstack("runs", cwd=cwd),
        after=lambda _: dstack.check_done(cwd, steps + 1),
    )
    cases = [ours, *_makes("fan", steps, dstack, scratch)]
    cases += [peer.case("fan", steps, scratch) for peer in peers if steps <= peer.largest_fan]
    repeats = 5 if steps <= 100 else 3 if steps <= 1000 else 1
    return Row(f"fan-{steps}", f"{steps:,} steps of `true` side by side, {SLOTS} at once", cases, repeats, steps)


def chain_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path, steps: int) -> Row:
    cwd = write(scratch / f"dstack-chain-{steps}", graphs.dstack_chain(steps))
    ours = Case(
        "dstack",
        [dstack.program, "run", f"s{steps}"],
        cwd,
        dstack.environment,
        before=lambda: dstack("runs", cwd=cwd),
        after=lambda _: dstack.check_done(cwd, steps),
    )
    cases = [ours, *_makes("chain", steps, dstack, scratch), *(peer.case("chain", steps, scratch) for peer in peers)]
    return Row("chain", f"a chain of {steps} steps of `true`", cases, 5, steps)


def lines_row(dstack: Dstack, peers: Sequence[Peer], scratch: Path, *, buffered: bool) -> Row:
    """One job prints a million lines; the same program into a file is the floor."""
    name = "lines-buffered" if buffered else "lines-unbuffered"
    command = f"{'env -u PYTHONUNBUFFERED ' if buffered else ''}{dstack.python}"
    cwd = write(scratch / name, graphs.dstack_lines(LINES, command))
    plain = plain_environment(scratch / "home")

    def kept(output: Path) -> None:
        """Every line is in the log, whole and in order, and was shown."""
        run = dstack.newest_run(cwd)
        stored = dstack("logs", str(run["name"]), cwd=cwd)
        expected = ("x" * (WIDTH - 1) + "\n") * LINES
        if stored != expected:
            raise CommandFailed(
                f"the log has {stored.count(chr(10)):,} lines, {len(stored):,} bytes of {len(expected):,}"
            )
        if output.read_text().count("x" * (WIDTH - 1)) != LINES:
            raise CommandFailed("not every line was shown")

    ours = Case("dstack", [dstack.program, "run", "lines"], cwd, dstack.environment, after=kept)
    floor = Case(
        "into a file", [dstack.python, "lines.py"], cwd, plain if buffered else plain | {"PYTHONUNBUFFERED": "1"}
    )
    how = "as the program buffers it" if buffered else "unbuffered"
    others = [peer.case("lines", LINES, scratch) for peer in peers]
    if buffered:
        others.append(_make("make", "lines", graphs.make_lines(LINES, str(dstack.python)), "all", scratch))
    return Row(name, f"one job prints {LINES:,} lines of {WIDTH} bytes, {how}", [ours, floor, *others], 3, LINES)


def _hello(dstack: Dstack, scratch: Path, before: str = "") -> Case:
    cwd = write(scratch / "dstack-hello", graphs.dstack_hello())
    prepare = {"": lambda: None, "stop": dstack.stop, "forget": dstack.forget}[before]
    return Case(
        "dstack",
        [dstack.program, "run", "hello"],
        cwd,
        dstack.environment,
        graphs.HELLO.encode() + b"\n",
        before=prepare,
    )


def _python(dstack: Dstack, scratch: Path) -> Case:
    return Case("python -c pass", [dstack.python, "-c", "pass"], scratch, plain_environment(scratch / "home"))


def _makes(shape: Shape, steps: int, dstack: Dstack, scratch: Path) -> list[Case]:
    build = graphs.make_fan if shape == "fan" else graphs.make_chain
    return [
        _make(f"make, {label}", f"{shape}-{steps}", build(steps, command), "all", scratch)
        for label, command in (("true", "true"), ("python -c pass", f"{dstack.python} -c pass"))
    ]


def _make(tool: str, name: str, files: graphs.Files, target: str, scratch: Path) -> Case:
    cwd = write(scratch / f"{name}-{tool.replace(' ', '-')}", files)
    awaited = graphs.HELLO.encode() if target == "hello" else None
    return Case(tool, ["make", "--silent", f"-j{SLOTS}", target], cwd, plain_environment(scratch / "home"), awaited)
