"""The tools of one agent, which its attempts work with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

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

if TYPE_CHECKING:
    from dstack.runner.inputs import Inputs


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
    kept_inputs: Inputs | None = None

    def inputs(self) -> Inputs:
        """The cache of large inputs, opened when the first job needs it: most jobs never do."""
        if self.kept_inputs is None:
            from dstack.runner.inputs import Inputs

            self.kept_inputs = Inputs(self)
        return self.kept_inputs

    def release_inputs(self, attempt_id: UUID) -> None:
        """The attempt needs nothing of that cache any more."""
        if self.kept_inputs is not None:
            self.kept_inputs.cache.release(attempt_id)
