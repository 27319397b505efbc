"""The tools of one agent, which its attempts work with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dstack.domain.ports import Clock
from dstack.runner.environments import EnvironmentManager
from dstack.runner.executors.interface import Executor
from dstack.runner.inotify import SpoolWatch
from dstack.runner.secrets import SecretSource
from dstack.runner.senders import EventSender, LogSender
from dstack.runner.settings import Settings
from dstack.runner.slots import Slots
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.store import SnapshotStore


@dataclass(slots=True)
class Workshop:
    """What the attempts of one agent share."""

    settings: Settings
    clock: Clock
    executor: Executor
    environments: EnvironmentManager
    slots: Slots
    events: EventSender
    logs: LogSender
    secrets: SecretSource
    watch: SpoolWatch
    store: SnapshotStore
    materialiser: Materialiser
    cleaner: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "dstack-clean"))
