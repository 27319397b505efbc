"""The runner's settings; each can be set by `DSTACK_RUNNER_<FIELD>`. Durations are seconds, sizes bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dstack.domain.environment import read_settings


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    server: str = ""
    """URL of a deployed server; empty: this home's embedded server, over its socket."""
    name: str = ""
    slots: int = 0
    """Jobs at once, counted in CPUs; 0: as many as the machine has."""
    local: bool = False
    """Started by an embedded server: ends when that is gone and nothing is held."""
    orphan_exit: float = 30.0
    """How long a local runner that holds nothing looks for its server before it ends."""
    retry_first: float = 0.05
    retry_last: float = 2.0
    stop_grace: float = 0.0
    """Overrides the grace that the server asks for, where not 0."""
    quiet_period: float = 1.0
    """A live snapshot is taken this long after the last change."""
    max_interval: float = 10.0
    """… and at the latest this long after the first change, when writes never pause."""
    save_retry: float = 5.0
    """How soon a store that refuses is tried again; each further time twice as long, up to a minute."""
    metrics_interval: float = 1.0
    """How often a job's metrics files are looked at."""
    log_limit: int = 1 << 30
    environments_kept: int = 20
    """Python environments that are kept for the next job that needs them …"""
    environments_size: int = 20 << 30
    """… and how large they may be together. Those that jobs work in stay in any case."""
    inputs_size: int = 50 << 30
    """Large inputs that are kept for the next job, all together; 0: none. Never more than a fifth of the disk …"""
    inputs_spare: int = 10 << 30
    """… nor so much that less than this, or less than a twentieth of the disk, would be free."""
    inputs_from: int = 128 << 20
    """The smallest that is kept, where each file counts as 26 KiB beside its bytes."""
    inputs_way: str = ""
    """How they reach a job: `reflink`, `overlay`, `copy`, or `direct` out of the store; empty: the best that works."""

    def __post_init__(self) -> None:
        if self.inputs_way not in ("", "reflink", "overlay", "copy", "direct"):
            raise ValueError(
                f"DSTACK_RUNNER_INPUTS_WAY=`{self.inputs_way}` is none of `reflink`, `overlay`, `copy` and `direct`"
            )

    @property
    def folder(self) -> Path:
        return self.home / "runner"


def from_environment(settings: Settings, environ: Mapping[str, str] = os.environ) -> Settings:
    """`settings` with what the environment says; raises ValueError naming the variable that cannot be read."""
    return read_settings(settings, "DSTACK_RUNNER", environ)
