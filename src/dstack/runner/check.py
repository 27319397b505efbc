"""`python -m dstack.runner.check`: what this machine has for jobs, as JSON on stdout. `dstack doctor` asks it.

{"cpus", "memory", "gpus": [{"name", "memory"}], "pythons": [version], "uv": {"path", "version"} or null,
 "index": {"where", "ok", "offline", "detail"} or null, "inputs": {"way", "why"} or null}
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dstack import embedded
from dstack.runner import capacity, inputs, package_index, pythons
from dstack.runner.environments import SetupError, find_uv
from dstack.runner.settings import Settings, from_environment

_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")
_PACKAGE = "pip"
"""What every index has."""
_SECONDS = 30


def main() -> int:
    logging.basicConfig(level=logging.ERROR)
    sys.stdout.write(json.dumps(look()) + "\n")
    return 0


def look() -> dict[str, Any]:
    """The answer; nothing of it fails where something is missing."""
    machine = capacity.detect()
    uv = _uv()
    return {
        "cpus": machine.cpu,
        "memory": machine.memory,
        "gpus": [{"name": card.name, "memory": card.memory} for card in machine.gpus],
        "pythons": list(pythons.minor_versions(os.environ)),
        "uv": uv,
        "index": _index(uv["path"]) if uv is not None else None,
        "inputs": _inputs(),
    }


def _inputs() -> dict[str, str] | None:
    """How large inputs reach jobs, and what stands against better ways; None where no runner has worked yet."""
    try:
        settings = from_environment(Settings(home=Path(embedded.home_folder())))
        if not settings.folder.is_dir():
            return None
        ways = inputs.look(settings)
    except (OSError, ValueError) as error:
        return {"way": "direct", "why": str(error)}
    return {"way": ways.best(1, settings.inputs_way), "why": "; ".join(filter(None, (ways.reflink, ways.overlay)))}


def _uv() -> dict[str, str] | None:
    try:
        path = str(find_uv())
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (SetupError, OSError, subprocess.SubprocessError):
        return None
    return {"path": path, "version": done.stdout.split()[1] if len(done.stdout.split()) > 1 else ""}


def _index(uv: str) -> dict[str, Any]:
    """Whether a package can be found where jobs' packages come from: what uv does for them, without installing."""
    environment = package_index.uv_environment(os.environ)
    named = [environment.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS")]
    where = _CREDENTIALS.sub(r"\1", " ".join(name for name in named if name))
    options = package_index.install_options(environment)
    answer: dict[str, Any] = {"where": where, "ok": False, "offline": "--no-index" in options, "detail": ""}
    if answer["offline"]:
        return {**answer, "ok": True}
    with tempfile.TemporaryDirectory() as folder:
        command = [uv, "pip", "install", "--dry-run", "--no-deps", "--no-config", "--python", sys.executable, *options]
        if _has_config(environment):
            command.remove("--no-config")
        command += ["--target", f"{folder}/target", "--cache-dir", f"{folder}/cache", _PACKAGE]
        try:
            done = subprocess.run(
                command, env={"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "1", **environment},
                capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {**answer, "detail": f"no answer within {_SECONDS} s"}
        except OSError as error:
            return {**answer, "detail": str(error)}
    if done.returncode == 0:
        return {**answer, "ok": True}
    told = " ".join(done.stderr[done.stderr.rfind("error:") + 1 :].split())
    return {**answer, "detail": _CREDENTIALS.sub(r"\1", told.removeprefix("rror: "))}


def _has_config(environment: dict[str, str]) -> bool:
    """Whether a person has configured uv: in a folder of a project, uv's own search would find that project's."""
    config = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return "UV_CONFIG_FILE" in environment or any(
        os.path.exists(path) for path in (f"{config}/uv/uv.toml", "/etc/uv/uv.toml")
    )


if __name__ == "__main__":
    sys.exit(main())
