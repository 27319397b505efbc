"""`dstack open`: the results of a run, as a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from dstack.cli.arguments import given_name
from dstack.cli.errors import UserError
from dstack.cli.render import count, say, size_words, write_json
from dstack.cli.session import Session
from dstack.client.types import Artifact


@click.command("open")
@click.argument("run", type=given_name)
@click.option("--path", "only_path", is_flag=True, help="Only print where the folder is.")
@click.option(
    "--json", "as_json", is_flag=True, help="The artifacts, each with the `target` it lies in; opens nothing."
)
def open_run(run: str, only_path: bool, as_json: bool) -> None:
    """Fetch what RUN has saved into a folder of dstack's own, print its path, and show it in the file manager.

    The folder is the same each time, and only what has changed since is fetched again. Copy what you want to keep:
    `dstack artifacts download` puts artifacts where you say.
    """
    session = Session()
    with session.api as api:
        found = api.artifacts(run=run)
        if not found:
            raise UserError(f"{run} has no artifacts", f"dstack explain {run}", exit_code=1)
        folder = Path(session.home, "cli", "results", run)
        targets = _fetch(session, found, folder)
    if as_json:
        write_json([{**item, "target": str(target)} for item, target in targets])
        return
    sys.stdout.buffer.write(os.fsencode(folder) + b"\n")  # a script may go there: no letter of it is replaced
    sys.stdout.flush()
    if not only_path:
        _show(folder)


def _fetch(session: Session, found: list[Artifact], folder: Path) -> list[tuple[Artifact, Path]]:
    """Bring `folder` up to date; each artifact with its place there."""
    from dstack.client.artifacts import download, places_of

    notes = folder.with_name(f"{folder.name}.json")
    known = _read(notes)
    places = places_of(found, folder)
    stale = [
        (artifact, place)
        for artifact, place in places
        if known.get(str(place)) != artifact.get("manifest_id") or not place.exists()
    ]
    if stale:
        size = sum(artifact.get("size", 0) for artifact, _ in stale)
        say(f"Fetching {count(len(stale), 'artifact')}, {size_words(size)}")
        download(session.api, stale, folder, overwrite=True)
        content = {str(place): artifact.get("manifest_id") for artifact, place in places}
        notes.write_text(json.dumps(content), encoding="utf-8")
    return places


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # never fetched, or half written: everything is fetched again


def _show(folder: Path) -> None:
    """Open `folder` where there is a screen to do so; its path was printed in any case."""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    if shutil.which(program) is None:
        return
    subprocess.Popen(
        [program, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
