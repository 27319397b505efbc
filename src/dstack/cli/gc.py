"""`dstack gc`: free what nothing refers to any more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import click

from dstack.cli.errors import UserError
from dstack.cli.render import count, is_coloured, say, size_words, write_json, write_table
from dstack.cli.session import open_api
from dstack.client.api import Api
from dstack.client.frames import BadFrame, read_frames
from dstack.client.wire import WireError

_WHY = {
    "unreferenced": "deleted runs, thinned snapshots, code that no run uses",
    "half-dead": "dead parts of packs that are more than half dead",
    "small": "small packs that are put together",
    "unfinished": "saves that were cut off",
}
_SECOND = 1_000_000
_SHOWN = 5
_TOLD = 1 << 20
"""Bytes; what an index of a pack takes is not worth a word."""


def _length(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Seconds."""
    from dstack.domain.retention import RuleError, duration

    if text is None:
        return None
    try:
        return duration("--grace", text.strip().lower()) / _SECOND
    except RuleError as error:
        raise click.BadParameter(f"{error}: {error.hint}") from None


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Free it; without it nothing is changed.")
@click.option("--grace", callback=_length, metavar="TIME",
              help="Leave what was saved, or asked about by who saves, in the last TIME (24h): no save under way may "
              "have begun before that.")  # fmt: skip
@click.option("--despite-damage", is_flag=True, help="Also free what only damaged folders could still name.")
@click.option("--json", "as_json", is_flag=True, help="What is freed and why, as a list of one object.")
def gc(yes: bool, grace: float | None, despite_damage: bool, as_json: bool) -> None:
    """Show what nothing refers to any more, and with -y free it.

    First the rules of the project are applied to snapshots and runs: see `dstack retention`. Jobs go on saving
    meanwhile, and downloads go on.
    """
    with open_api() as api, _told() as tell:
        body = {"dry_run": not yes, "grace": grace, "despite_damage": despite_damage}
        end = _follow(api, body, tell)
    if as_json:
        write_json([{name: value for name, value in end.items() if name != "t"}])
    else:
        _show(end)


def _follow(api: Api, body: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """What came of it. Raises UserError."""
    for frame in _frames(api, body):
        match frame["t"]:
            case "phase":
                tell(frame["what"])
            case "damaged":
                raise _damaged(frame)
            case "error":
                raise UserError(frame["message"], frame.get("hint") or None)
            case "end":
                return frame
            case _:
                pass
    raise UserError("it was cut short: the server is ending", "start it again: it goes on from there")


def _frames(api: Api, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        for frame, _ in read_frames(api.collect(body)):
            yield {**frame}
    except (BadFrame, WireError) as error:
        raise UserError(f"it was cut short: {error}", "start it again: it goes on from there") from error


def _damaged(frame: dict[str, Any]) -> UserError:
    found = frame["objects"]
    lines = [f"  {each['why']}" for each in found[:_SHOWN]]
    more = len(found[_SHOWN:]) + frame["more"]
    if more:
        lines.append(f"  and {more} more")
    return UserError(
        "nothing was freed: the store is damaged, so it is not known what all is still needed:\n" + "\n".join(lines),
        "`dstack verify --all` names the runs: save them again or delete them; or add --despite-damage",
        exit_code=1,
    )


@contextmanager
def _told() -> Generator[Callable[[str], None]]:
    """Shows on a terminal what is being done."""
    if not is_coloured(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("collecting garbage") as status:
        yield lambda what: status.update(f"{what} …")


def _show(end: dict[str, Any]) -> None:
    dry = end["dry_run"]
    rows: list[list[str]] = [
        [count(found["packs"], "pack"), size_words(found["bytes"]), _WHY.get(why) or why]
        for why, found in end["why"].items()
    ]
    if rows:
        write_table(["WHAT", "SIZE", "WHY"], rows)
        sys.stdout.flush()
    _show_rules(end, "would let go" if dry else "let go")
    size = sum(found["bytes"] for found in end["why"].values())
    earlier = end["waiting"]["bytes"] if dry else 0
    if not dry and end["deleted"]["bytes"]:
        say(f"{size_words(end['deleted']['bytes'])} deleted.")
    if end["waiting"]["bytes"]:
        at = "soon" if not end["waits"] else f"within {_words(end['waits'])}"
        say(f"{size_words(end['waiting']['bytes'])} go by themselves {at}, when no download can be reading them.")
    if end["written"]:
        say(f"{size_words(end['written'])} were packed anew for it.")
    if not size and not earlier and not end["deleted"]["bytes"] and not end["waiting"]["bytes"]:
        say("There is nothing to free.")
    if end["held"]:
        say(
            f"{size_words(end['held'])} that nothing refers to stay for now: saved, or asked about by a save, in the "
            f"last {_words(end['held_for'])}."
        )
    if end["stays"] >= _TOLD:
        say(f"{size_words(end['stays'])} stay until more of the packs that they lie in is dead.")
    if end.get("damaged"):
        verb = "is" if end["damaged"] == 1 else "are"
        say(f"{count(end['damaged'], 'pack')} {verb} damaged: dstack verify --all")
    if dry and size:
        say(f"{size_words(size)} would be freed, {size_words(end['kept'])} are in use. To do so: dstack gc -y")


def _show_rules(end: dict[str, Any], verb: str) -> None:
    found = [
        count(end["snapshots"], "snapshot") if end["snapshots"] else "",
        count(len(end["runs"]), "run") if end["runs"] else "",
    ]
    told = " and ".join(part for part in found if part)
    if told:
        say(f"The rules of the project {verb} of {told} (dstack retention).")


def _words(seconds: int) -> str:
    """A length of time as a person says it."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return count(round(seconds / length), unit)
    return count(seconds, "second")
