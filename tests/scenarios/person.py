"""A person at a terminal: a folder with workflows, a fresh home, and `dstack …` typed in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DSTACK = Path(sys.executable).with_name("dstack")
PACKAGE_SETTINGS = re.compile(
    r"(PIP|UV)_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|https?_proxy|no_proxy", re.IGNORECASE
)
"""Variables that say how this machine reaches packages; a person's shell has them, too."""


def person_environment(root: Path) -> dict[str, str]:
    """The environment of a person whose home is `root`, with a home of dstack in it."""
    passed = {name: value for name, value in os.environ.items() if PACKAGE_SETTINGS.fullmatch(name)}
    return passed | {
        "PATH": f"{DSTACK.parent}:/usr/bin:/bin",
        "HOME": str(root),
        "DSTACK_HOME": str(root / "home"),
        "LANG": "C.UTF-8",
        # Nothing stays behind after the test's `dstack server stop`.
        "DSTACK_RUNNER_ORPHAN_EXIT": "1",
    }


class Person:
    def __init__(self, root: Path, code: Path) -> None:
        """Work in a git repository with a copy of `code`, below `root`."""
        self.repo, self.home = root / "repo", root / "home"
        shutil.copytree(code, self.repo)
        self.environment = person_environment(root)
        subprocess.run(["git", "init", "--quiet"], cwd=self.repo, env=self.environment, check=True)

    def types(self, *words: str, code: int = 0) -> str:
        """What `dstack WORDS` prints, to stdout; it must end with `code`."""
        done = subprocess.run(
            [DSTACK, *words],
            cwd=self.repo,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = f"dstack {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert done.returncode == code, said
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first, as `dstack runs` describes them to programs."""
        return json.loads(self.types("runs", "-a", "--json"))
