"""What of this machine the attempts that run here use; the next ones wait in the order they were handed out."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from dstack.domain.placement import matches
from dstack.domain.resources import Capacity, Requirements


@dataclass(frozen=True, slots=True)
class Share:
    """What one attempt holds. `gpus` are indexes of cards."""

    need: Requirements
    gpus: tuple[int, ...]


class Slots:
    """Admission in first-come order: a large job at the head is not overtaken for ever by small ones."""

    def __init__(self, capacity: Capacity, slots: int) -> None:
        self._capacity = capacity
        self._cpu = slots
        self._memory = capacity.memory
        self._cards = set(range(len(capacity.gpus)))
        self._held: dict[UUID, Share] = {}
        self._waiting: OrderedDict[UUID, tuple[Requirements, asyncio.Future[Share]]] = OrderedDict()

    async def take(self, attempt_id: UUID, need: Requirements) -> Share:
        """Wait until `need` is free and hold it. Cancelling gives the place in the queue up."""
        future: asyncio.Future[Share] = asyncio.get_running_loop().create_future()
        self._waiting[attempt_id] = (need, future)
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            self._waiting.pop(attempt_id, None)
            self.release(attempt_id)
            raise

    def waiting(self) -> bool:
        """Whether an attempt waits for room."""
        return bool(self._waiting)

    def adopt(self, attempt_id: UUID, need: Requirements, gpus: tuple[int, ...]) -> None:
        """Count an attempt that runs already (found after a restart)."""
        self._hold(attempt_id, Share(need, gpus))

    def release(self, attempt_id: UUID) -> None:
        """Give back; does nothing when nothing is held."""
        share = self._held.pop(attempt_id, None)
        if share is not None:
            self._cpu += share.need.cpu
            self._memory += share.need.memory or 0
            self._cards.update(share.gpus)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            attempt_id, (need, future) = next(iter(self._waiting.items()))
            gpus = self._choose(need)
            if gpus is None:
                return
            del self._waiting[attempt_id]
            if not future.done():
                share = Share(need, gpus)
                self._hold(attempt_id, share)
                future.set_result(share)

    def _choose(self, need: Requirements) -> tuple[int, ...] | None:
        if need.cpu > self._cpu or (need.memory or 0) > self._memory:
            return None
        fitting = [index for index in sorted(self._cards) if matches(self._capacity.gpus[index], need)]
        return tuple(fitting[: need.gpu.count]) if len(fitting) >= need.gpu.count else None

    def _hold(self, attempt_id: UUID, share: Share) -> None:
        self._held[attempt_id] = share
        self._cpu -= share.need.cpu
        self._memory -= share.need.memory or 0
        self._cards.difference_update(share.gpus)
