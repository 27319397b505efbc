"""`benchmarks/run`: measure, print, and on request write the tables into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import backup_peers, graphs, ours, peers, report
from benchmarks.artifact_budgets import ARTIFACT_BUDGETS
from benchmarks.artifact_rows import LARGE, Shelf, artifact_rows
from benchmarks.measure import CommandFailed, Idle, Row, family, idle
from benchmarks.rows import NAMES, Makers, any_wanted, chosen, run_rows

KEPT = ours.ROOT / ".benchmarks"
PAGE = ours.ROOT / "docs" / "benchmarks.md"


def main() -> int:
    options = parse()
    # However this ends, the servers that it started are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    KEPT.mkdir(exist_ok=True)
    makers = () if not options.peers else peers.ALL if any_wanted((*NAMES, "idle"), options.only) else (peers.dvc,)
    beside = [make(KEPT) for make in makers]
    say("installing dstack")
    ours.install(KEPT / "dstack")
    versions = {"dstack": ours.version(KEPT / "dstack", "dstack")}
    for peer in beside:
        say(f"installing {peer.name}")
        peers.install(peer)
        versions[peer.name] = ours.version(peer.environment, peer.name)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        dstack = ours.Dstack(KEPT / "dstack", scratch)
        stack.callback(dstack.stop)
        resting: dict[str, Idle] = {}
        measured: dict[str, Row] = {}
        for peer in beside:
            if peer.name == "prefect":
                pid = stack.enter_context(peers.PrefectServer(peer, scratch))
                if wanted(options.only, "idle"):
                    say("watching prefect's server")
                    resting["prefect server"] = idle(family(pid), options.seconds)
        if wanted(options.only, "idle"):
            resting = watch(dstack, scratch, options.seconds) | resting
        shelf = Shelf(dstack, beside, scratch)
        stack.callback(shelf.close)
        of_runs, of_artifacts = run_rows(dstack, beside, scratch), artifact_rows(shelf, dstack, scratch)
        left_out = () if options.large else LARGE
        for row in chosen({**of_runs, **of_artifacts}, set(options.only), by_name_only=left_out):
            say(row.title)
            row.measure()
            measured[row.name] = row
        # Before the folder goes: a disk may take minutes to delete a million files.
        found = report.Results(_some(measured, of_runs), resting, versions)
        tell("results", found, report.BUDGETS, is_kept=options.write)
        found = report.Results(_some(measured, of_artifacts), {}, versions | backup_peers.versions())
        tell("artifacts", found, ARTIFACT_BUDGETS, is_kept=options.write)
    failed = [note for row in measured.values() if (note := row.notes.get("dstack"))]
    for note in failed:
        say(f"failed: {note}")
    return 1 if failed else 0


def _some(measured: dict[str, Row], names: Makers) -> dict[str, Row]:
    return {name: row for name, row in measured.items() if name in names}


def tell(section: str, results: report.Results, budgets: Sequence[report.Budget], *, is_kept: bool) -> None:
    """Print the tables, if anything was measured, and put them between the marks of their section of the page."""
    if not results.rows and not results.idle:
        return
    text = report.write(results, budgets)
    sys.stdout.write(text)
    sys.stdout.flush()
    if not is_kept:
        return
    begin, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->"
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{head}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure dstack beside its peers.")
    parser.add_argument(
        "--peers", action="store_true", help="install and measure dvc, metaflow, snakemake and prefect too"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="ROW",
        help="rows by name, such as fan-100, or all of a kind, such as fan",
    )
    parser.add_argument("--large", action="store_true", help=f"also {', '.join(LARGE)}: up to 60 GB and an hour")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long idle programs are watched")
    return parser.parse_args()


def watch(dstack: ours.Dstack, scratch: Path, seconds: float) -> dict[str, Idle]:
    """Server and runner after one job, at rest."""
    cwd = ours.write(scratch / "idle", graphs.dstack_hello())
    dstack("run", "hello", cwd=cwd)
    found: dict[str, Idle] = {}
    for program in ("server", "runner"):
        say(f"watching the idle {program}")
        pid = dstack.pid(program)
        if pid is None:
            raise CommandFailed(f"the {program} wrote no process id into its lock file")
        found[f"dstack {program}"] = idle([pid], seconds)
    return found


def wanted(only: list[str], name: str) -> bool:
    return not only or name in only


def say(text: str) -> None:
    print(f"benchmarks: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
