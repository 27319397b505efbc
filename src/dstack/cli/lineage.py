"""`dstack lineage`: where a run's inputs come from, and who used what it saved."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from dstack.cli.arguments import current_repository, given_name, run_or_tag
from dstack.cli.render import STATUS_COLOURS, paint, say, write_json
from dstack.cli.session import open_api
from dstack.cli.tagged import run_named
from dstack.client.sources import SHOWN
from dstack.client.types import Lineage, Link

_HEADS = {"input": "inputs", "use": "used by"}
_HOW = {"reused": "reused as", "begins": "put back for"}
_TOOK = {"reused": "reuses", "begins": "began from"}
_NONE = {"input": "no inputs from other runs", "use": "not used by other runs"}


@click.command()
@click.argument("source", metavar="RUN|:TAG", type=given_name)
@click.option("--json", "as_json", is_flag=True, help="The links, as a list of objects.")
def lineage(source: str, as_json: bool) -> None:
    """Show what the inputs of RUN came from, and which runs used its artifacts, as far as it goes."""
    run, tag = run_or_tag(source)
    with open_api() as api:
        run = run_named(api, run) if run is not None else None
        found = api.lineage(run=run, tag=tag, repository=current_repository() if tag else None)
    if as_json:
        write_json(found.get("links", []))
        return
    roots = found.get("roots", [])
    sys.stdout.write(source + (f" is {', '.join(roots)}" if run != source else "") + "\n")
    for direction, head in _HEADS.items():
        lines = list(_tree(found, direction))
        sys.stdout.write(f"{head}:\n" + "".join(f"{line}\n" for line in lines) if lines else f"{_NONE[direction]}\n")
    sys.stdout.flush()
    if found.get("cut"):
        say("there is more than is shown")


def _tree(found: Lineage, direction: str) -> Iterator[str]:
    """Lines, indented by how far they are; what stands below a run is shown where it comes first."""
    near, far = ("run", "source") if direction == "input" else ("source", "run")
    below: dict[str, list[Link]] = {}
    for link in found.get("links", []):
        if link.get("direction") == direction:
            below.setdefault(link.get(near, ""), []).append(link)
    shown: set[str] = set()
    stack = [(1, link) for root in reversed(found.get("roots", [])) for link in reversed(below.get(root, []))]
    while stack:
        depth, link = stack.pop()
        yield "  " * depth + _line(link, direction)
        name = link.get(far, "")
        if name not in shown:
            shown.add(name)
            stack += [(depth + 1, following) for following in reversed(below.get(name, []))]


def _line(link: Link, direction: str) -> str:
    status = link.get("source_status" if direction == "input" else "status", "")
    told = paint(status, STATUS_COLOURS.get(status, "red"), sys.stdout)
    partial = ", partial" if link.get("partial") else ""
    tag = f" as :{link.get('tag')}" if link.get("tag") else ""
    how = link.get("how", "")
    if direction == "input":
        where = f"{link.get('source')}/{link.get('job')}{_snapshot(link)}"
        return f"{link.get('path')} of {where}{tag} ({told}{partial}), {_HOW.get(how, 'for')} {link.get('step')}"
    took = f"{_TOOK.get(how, 'took')} {link.get('path')} of {link.get('job')}{_snapshot(link)}{tag}{partial}"
    return f"{link.get('run')} ({told}): {link.get('step')} {took}"


def _snapshot(link: Link) -> str:
    """Which one it was, where it is not the last."""
    return f" as of snapshot {link.get('manifest_id', '')[:SHOWN]}" if link.get("instead") else ""
