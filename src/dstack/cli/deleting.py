"""What `dstack rm` and `dstack prune` share: deleting runs, and saying what became of each."""

from __future__ import annotations

import os
import shutil
from typing import TypedDict

from dstack.cli.render import say
from dstack.cli.session import Session
from dstack.client.types import Run

AT_ONCE = 200


class Outcome(TypedDict):
    """What became of one run."""

    run: str
    deleted: bool
    why: str | None
    hint: str | None


def delete_runs(session: Session, names: list[str], *, force: bool = False) -> list[Outcome]:
    """Delete the runs, telling of each on stderr, and what `dstack open` has fetched of them."""
    outcomes: dict[str, Outcome] = {}
    for start in range(0, len(names), AT_ONCE):
        answer = session.api.delete_runs(names[start : start + AT_ONCE], force=force)
        for name in answer.get("deleted", []):
            outcomes[name] = {"run": name, "deleted": True, "why": None, "hint": None}
            _forget_results(session.home, name)
            say(f"{name} deleted")
        for item in answer.get("refused", []):
            name, why, hint = item.get("run", ""), item.get("why", ""), item.get("hint", "")
            outcomes[name] = {"run": name, "deleted": False, "why": why, "hint": hint or None}
            say(f"not deleted: {why}" + (f"\n  hint: {hint}" if hint else ""))
    return list(outcomes.values())


def _forget_results(home: str, run: str) -> None:
    folder = f"{home}/cli/results/{run}"
    if "/" in run or not os.path.isdir(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)  # only copies; `dstack du` shows what could not be removed
    try:
        os.unlink(f"{folder}.json")
    except FileNotFoundError:
        pass  # it was being fetched and never was whole


def is_finished_and_untagged(run: Run) -> bool:
    return run.get("finished_at") is not None and not run.get("tags")
