"""The server's settings: the only difference between an embedded and a deployed server.

Each field can be set by `DSTACK_SERVER_<FIELD>` in the environment; durations are seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dstack.domain.environment import read_settings
from dstack.embedded.store_place import store_folder


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    database_url: str = ""
    """Empty: SQLite in the home."""
    socket: str = ""
    host: str = ""
    port: int = 0
    project: str = "main"
    local_runner: bool = True
    idle_exit: float = 600.0
    """An embedded server ends after this long with nothing running; 0: never."""
    heartbeat: float = 10.0
    lease: float = 60.0
    lost_after: float = 86400.0
    lost_after_retry: float = 300.0
    """`lost_after` where the policy retries a lost runner."""
    unsatisfiable_after: float = 0.0
    assigned_lost_after: float = 300.0
    max_unstarted: int = 10
    """Attempts of a job that may be lost in a row before they started, until it fails."""
    setup_deadline: float = 1800.0
    save_deadline: float = 86400.0
    plan_deadline: float = 600.0
    stop_grace: float = 30.0
    tick: float = 5.0
    """How often each loop looks without being woken."""
    place_on_report: bool = True
    """Whether the answer to a runner's report already brings its next jobs (one server, few runners)."""
    poll_wait: float = 20.0
    upkeep: float = 600.0
    """How often the rules for what is kept are applied."""
    upkeep_after: float = 60.0
    """How long after the start of a server they are applied first."""
    gc_grace: float = 86400.0
    """What was saved, or asked about by who saves, within this time is not collected: no save may take longer."""
    gc_asked_to: float = 600.0
    """How exactly the time of the last question is known."""
    gc_condemned: float = 3900.0
    """A pack that nothing needs stays for this long: longer than a signed request for it lives."""
    secrets_key: str = field(default="", repr=False)
    """What seals secrets (`services/sealing.py`); empty: a file in the home."""

    @property
    def store(self) -> Path:
        """Where the packs are, or are to be (`dstack server move-store`)."""
        return store_folder(self.home)

    @property
    def logs(self) -> Path:
        return self.home / "server" / "logs"

    @property
    def secrets_file(self) -> Path:
        return self.home / "server" / "secrets.key"

    @property
    def url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'server' / 'dstack.db'}"


def from_environment(settings: Settings, environ: Mapping[str, str] = os.environ) -> Settings:
    """`settings` with what the environment says; raises ValueError naming the variable that cannot be read."""
    return read_settings(settings, "DSTACK_SERVER", environ)
