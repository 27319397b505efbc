"""What every service works with: the database, the store, the clock and the ids, made once at start."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from uuid import UUID

from dstack.domain.ports import Clock, Ids
from dstack.logs.files import FileLogStore
from dstack.sdk.blobs import BlobStore
from dstack.server.bus import Bus
from dstack.server.db.engine import Database
from dstack.server.services.sealing import Sealer
from dstack.server.settings import Settings


@dataclass(slots=True)
class Context:
    settings: Settings
    database: Database
    bus: Bus
    blobs: BlobStore
    logs: FileLogStore
    sealer: Sealer
    clock: Clock
    ids: Ids
    project_id: UUID
    deployment_id: UUID
    epoch: int
    started_at: int
    problems: dict[UUID, str] = field(default_factory=dict[UUID, str])
    """What keeps attempts from saving, where the database did not take it (`services/problems.py`)."""
    holdings: dict[UUID, frozenset[bytes]] = field(default_factory=dict[UUID, frozenset[bytes]])
    """Which large inputs each runner has unpacked, of those that poll this process (`services/holdings.py`)."""
    random: random.Random = field(default_factory=random.SystemRandom)
