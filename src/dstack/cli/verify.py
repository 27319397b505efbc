"""`dstack verify`: whether what was saved is all there and right, and what to do where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import click

from dstack.cli.arguments import current_repository, given_name, run_or_tag
from dstack.cli.errors import UserError
from dstack.cli.render import ago, count, paint, say, size_words, write_json
from dstack.cli.session import open_api
from dstack.cli.tagged import run_named
from dstack.client.api import Api
from dstack.client.frames import BadFrame, read_frames
from dstack.client.wire import WireError

_SHOWN = 20
"""Files of one artifact that are listed; `--json` has more."""
_PROGRESS = ("total", "done", "beat")
_REPAIR = "dstack verify --all --repair"


@click.command()
@click.argument("source", metavar="RUN|:TAG", required=False, type=given_name)
@click.option("-a", "--all", "everything", is_flag=True, help="Check the whole store, also against its catalog.")
@click.option("--quick", is_flag=True, help="Do not read the data: is it there, as long as it was, with its index?")
@click.option("--repair", is_flag=True, help="Take out what is damaged, so that saving it again brings it back.")
@click.option("--rebuild-index", is_flag=True, help="Make the catalog of the whole store again from the packs.")
@click.option("--json", "as_json", is_flag=True, help="What was found and done, as a list of objects.")
def verify(source: str | None, everything: bool, quick: bool, repair: bool, rebuild_index: bool, as_json: bool) -> None:
    """Check that what RUN or :TAG saved is all there and right: every byte is read and hashed.

    Names what is damaged, and the runs and files that it touches; exits with 1 where anything is.
    """
    if bool(source) + everything + rebuild_index != 1:
        raise click.UsageError("name a RUN or :TAG, or write --all, or --rebuild-index")
    if rebuild_index and (quick or repair):
        raise click.UsageError("--rebuild-index goes with neither --quick nor --repair")
    run, tag = run_or_tag(source) if source else (None, None)
    body: dict[str, Any] = {"run": run, "tag": tag, "quick": quick, "repair": repair, "rebuild": rebuild_index}
    if tag:
        body["repository"] = current_repository()
    found: list[dict[str, Any]] = []
    try:
        with open_api() as api, ExitStack() as bar:
            body["run"] = run_named(api, run) if run is not None else None
            for frame in _frames(api, body, bar):
                found.append(frame)  # noqa: PERF402 -- what was found before an interruption is to be shown
    finally:
        if not as_json:
            _show(found)
    if as_json:
        write_json(found)
    else:
        _sum_up(found, f"dstack verify {source} --repair" if source else _REPAIR, repaired=repair)
    sys.exit(1 if any(frame["t"] in ("damage", "left") or frame.get("dropped") for frame in found) else 0)


def _frames(api: Api, body: dict[str, Any], bar: ExitStack) -> Iterator[dict[str, Any]]:
    """What the server finds, without what only moves the bar. Raises UserError where it does not come to an end."""
    from dstack.cli.transfer import transfer

    advance = None
    try:
        for each, _ in read_frames(api.verify(body)):
            frame: dict[str, Any] = {**each}
            match frame["t"]:
                case "total":
                    advance = bar.enter_context(transfer("checking", frame["bytes"]))
                case "done" if advance is not None:
                    advance(frame["bytes"])
                case "error":
                    raise UserError(f"the check could not go on: {frame['message']}", frame.get("hint"))
                case kind if kind not in _PROGRESS:
                    yield frame
                case _:
                    pass
            if frame["t"] == "end":
                return
    except (BadFrame, WireError) as error:
        raise UserError(f"the check was cut short: {error}", "start it again") from error
    raise UserError("the check was cut short: the server is ending", "start it again")


def _show(found: list[dict[str, Any]]) -> None:
    """What is wrong, then whom it touches, then what was done."""
    for frame in found:
        match frame["t"]:
            case "damage":
                sys.stdout.write(_damage(frame) + "\n")
            case "unreferenced":
                sys.stdout.write(
                    f"{frame['key']}: {size_words(frame['size'])} that nothing refers to: {frame['why']}\n"
                )
            case "aside":
                kept = count(frame["chunks"], "chunk")
                sys.stdout.write(f"pack {frame['pack']}: moved to {frame['key']}; {kept} of it kept in a new pack\n")
            case "left":
                sys.stdout.write(f"pack {frame['pack']}: left where it is: {frame['why']}\n")
            case _:
                pass
    for frames in _by_artifact(found):
        sys.stdout.writelines(f"{line}\n" for line in _touched(frames))
    sys.stdout.flush()


def _damage(frame: dict[str, Any]) -> str:
    what = "chunk" if frame["kind"] == "row" and frame["id"] != frame["pack"] else frame["kind"]
    what = "pack" if what == "row" else what
    where = f" in pack {frame['pack']}" if frame["pack"] and frame["pack"] != frame["id"] else ""
    return f"{paint('damaged:', 'red', sys.stdout)} {what} {frame['id']}{where}: {frame['what']}"


def _by_artifact(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The snapshots that are touched, by run, job and path."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for frame in found:
        if frame["t"] == "touched":
            groups.setdefault((frame["run"], frame["job"] or "", frame["path"] or ""), []).append(frame)
    return list(groups.values())


def _touched(frames: list[dict[str, Any]]) -> Iterator[str]:
    last = max(frames, key=lambda frame: frame["at"])
    inside = f":{last['path']}" if last["path"] != "." else ""
    what = f"{last['run']}/{last['job']}{inside}" if last["job"] else f"the code of {last['run']}"
    several = f"{len(frames)} snapshots, the last one saved" if len(frames) > 1 else "saved"
    yield f"{paint('touched:', 'yellow', sys.stdout)} {what}, {several} {ago(last['at'])}"
    files = list(dict.fromkeys(path for frame in frames for path in frame["files"]))
    more = len(files[_SHOWN:]) + max(frame["more"] for frame in frames)
    for path in files[:_SHOWN]:
        yield "    everything in it" if path == "." else f"    {path}"
    if more:
        yield f"    and {more} more"


def _sum_up(found: list[dict[str, Any]], repair: str, *, repaired: bool) -> None:
    end = found[-1]
    damages = [frame for frame in found if frame["t"] == "damage"]
    runs = {frame["run"] for frame in found if frame["t"] == "touched"}
    for frame in found:
        if frame["t"] in ("repaired", "rebuilt"):
            say(_done(frame))
    if "packs" not in end:
        return
    looked = f"{count(end['packs'], 'pack')}" + ("" if end["quick"] else f", {size_words(end['bytes'])} read")
    if not damages:
        say(f"Nothing is damaged ({looked}).")
        return
    say(f"{count(len(damages), 'damage')} in {looked}; {count(len(runs), 'run')} touched.")
    unknown = sum(frame["t"] == "unreferenced" for frame in found)
    if runs and unknown:
        there = f"{count(unknown, 'pack')} of the store {'is' if unknown == 1 else 'are'} unknown to the catalog"
        say(f"{there} and may hold what is lacking. To take in what the packs hold: dstack verify --rebuild-index")
    elif not repaired and any(frame["pack"] for frame in damages):
        say(f"To take out what is damaged, so that saving the same again brings it back: {repair}")
    elif runs:
        say("What is lacking comes back when files with the same content are saved again, by whatever job or upload.")


def _done(frame: dict[str, Any]) -> str:
    parts = [
        (frame["corrected"], "entry of the catalog corrected", "entries of the catalog corrected"),
        (frame["restored"], "entry found again in the packs", "entries found again in the packs"),
        (frame["dropped"], "damaged entry dropped", "damaged entries dropped"),
        (frame["moved_packs"], "damaged pack moved aside", "damaged packs moved aside"),
        (frame["left"], "damaged pack could not be replaced", "damaged packs could not be replaced"),
    ]
    told = "; ".join(count(number, one, many) for number, one, many in parts if number)
    what = "The catalog is made again" if frame["t"] == "rebuilt" else "Repaired"
    return f"{what}: {told}." if told else f"{what}: there was nothing to change."
