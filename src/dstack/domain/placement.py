"""Whether requirements fit a machine, and in words why not. Pure; the placer and `explain` share it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dstack.domain.resources import Capacity, GpuCard, Requirements, format_memory


@dataclass(slots=True)
class Free:
    """What is left of a machine, counted down as jobs are placed. `ahead`: how many more may wait on it."""

    cpu: int
    memory: int
    gpus: list[GpuCard]
    ahead: int

    @classmethod
    def of(cls, capacity: Capacity, slots: int) -> Free:
        return cls(slots, capacity.memory, list(capacity.gpus), 2 * slots)

    def take(self, need: Requirements) -> bool:
        """Reserve `need` now if it fits."""
        cards = _matching(self.gpus, need)[: need.gpu.count]
        if need.cpu > self.cpu or (need.memory or 0) > self.memory or len(cards) < need.gpu.count:
            return False
        self.occupy(need)
        return True

    def occupy(self, need: Requirements) -> None:
        """Count `need` as used, whether or not it fits (it may wait on the machine)."""
        self.cpu -= need.cpu
        self.memory -= need.memory or 0
        for card in _matching(self.gpus, need)[: need.gpu.count]:
            self.gpus.remove(card)

    def take_ahead(self, need: Requirements) -> bool:
        """Let a job without GPUs wait on the machine, where it still may."""
        if need.gpu.count or self.ahead <= 0:
            return False
        self.ahead -= 1
        return True


def unmet(need: Requirements, capacity: Capacity, slots: int) -> list[str]:
    """What `capacity` could never give, each as "asked …, has …"; empty when it fits an idle machine."""
    missing: list[str] = []
    if need.cpu > slots:
        missing.append(f"{_count(need.cpu, 'CPU')} asked, {slots} there")
    if need.memory is not None and need.memory > capacity.memory:
        missing.append(f"{format_memory(need.memory)} of memory asked, {format_memory(capacity.memory)} there")
    if need.gpu.count and len(_matching(capacity.gpus, need)) < need.gpu.count:
        missing.append(f"{_gpus(need)} asked, {_cards(capacity)} there")
    return missing


def describe(need: Requirements) -> str:
    """Requirements in one line: `2 CPUs, 16GiB, 1 GPU`."""
    parts = [_count(need.cpu, "CPU")]
    if need.memory is not None:
        parts.append(format_memory(need.memory))
    if need.gpu.count:
        parts.append(_gpus(need))
    return ", ".join(parts)


def matches(card: GpuCard, need: Requirements) -> bool:
    """Whether a card is one that `need` asks for."""
    name, memory = need.gpu.name, need.gpu.memory
    return (name is None or name.lower() in card.name.lower()) and (memory is None or card.memory >= memory)


def _matching(cards: Iterable[GpuCard], need: Requirements) -> list[GpuCard]:
    return [card for card in cards if matches(card, need)]


def _gpus(need: Requirements) -> str:
    gpu = need.gpu
    named = f"{gpu.name} " if gpu.name else ""
    sized = f" with {format_memory(gpu.memory)}" if gpu.memory else ""
    return f"{gpu.count} {named}GPU{'s' if gpu.count != 1 else ''}{sized}"


def _cards(capacity: Capacity) -> str:
    if not capacity.gpus:
        return "none"
    return ", ".join(f"{card.name} {format_memory(card.memory)}" for card in capacity.gpus)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
