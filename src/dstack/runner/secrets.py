"""What a job is given and nobody else may see: fetched for one attempt, held in memory only, masked in all that leaves.

The values reach the job in the environment that its process is started with, and no file; a restarted agent fetches
them again before it ships a byte, and is given the very same ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import msgspec

from dstack.domain.credentials import credentials
from dstack.logs.masking import NOTHING, MaskSet
from dstack.protocol import messages
from dstack.runner.environments import SetupError
from dstack.runner.link import Channel, LinkDown, Refused
from dstack.runner.senders import EventSender
from dstack.runner.settings import Settings
from dstack.sdk.provider import MARKER
from dstack.snapshots.scanning import shown

_log = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds that a running job's output waits for secrets which the server cannot hand out, before it is withheld."""
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Secrets:
    """The values of one attempt by the names in `JobSpec.secrets`, and what of them to mask.

    `withheld`: they could not be had, so nothing that a job may have written can leave.
    """

    values: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    wanted: MaskSet = field(default=NOTHING, repr=False)
    withheld: bool = False

    def fill(self, environment: Mapping[str, str]) -> dict[str, str]:
        """`environment` with values in place of the markers (`secret_marker`)."""
        return {
            name: MARKER.sub(lambda found: self.values[found[1]], value) if "\0" in value else value
            for name, value in environment.items()
        }

    def also(self, wanted: MaskSet) -> Secrets:
        """The same, with more to mask."""
        return replace(self, wanted=self.wanted | wanted) if wanted else self

    def words(self, text: str) -> str:
        """`text` as it may be told."""
        return "" if self.withheld else self.wanted.mask_text(text)

    def masked(self, event: messages.AttemptEvent) -> messages.AttemptEvent:
        """`event` with nothing in it that no one may see."""
        if not self.wanted and not self.withheld:
            return event
        changed = msgspec.structs.replace
        match event:
            case messages.Rejected() | messages.SetupFailed() | messages.SaveRefused() | messages.Exited():
                return changed(event, detail=self.words(event.detail))
            case messages.Started() if event.packages:
                return changed(event, packages=tuple(map(self.words, event.packages)))
            case messages.Saved():
                end = changed(event.exit, detail=self.words(event.exit.detail)) if event.exit else None
                return changed(event, exit=end, warnings=tuple(map(self.words, event.warnings)))
            case messages.MetricsLogged():
                points = () if self.withheld else event.points
                return changed(event, points=tuple(changed(point, name=self.words(point.name)) for point in points))
            case _:
                return event


async def of_shell(environment: Mapping[str, str]) -> MaskSet:
    """What is to be masked of variables that came from a shell: passwords of proxies and package indexes, tokens."""
    found = [value.encode("utf-8", "surrogateescape") for value in credentials(environment)]
    return await asyncio.to_thread(MaskSet.of, found) if found else NOTHING


NO_SECRETS = Secrets()
WITHHELD = Secrets(withheld=True)


class SecretSource:
    """Asks the server, on the line that events take."""

    def __init__(self, channel: Channel, settings: Settings, events: EventSender) -> None:
        self._channel = channel
        self._settings = settings
        self._events = events

    async def fetch(self, attempt_id: UUID) -> Secrets:
        """For a job that is about to start, however long the server is away. Raises SetupError."""
        reply = await self._ask(attempt_id)
        if reply.over:
            raise SetupError("the server did not hand out the job's secrets: it has moved on without this attempt")
        if reply.problem:
            raise SetupError(f"the job's secrets cannot be had: {reply.problem}")
        return await _secrets(reply)

    async def fetch_again(self, attempt_id: UUID) -> Secrets:
        """For a job that runs already, started by an earlier agent; WITHHELD where they cannot be had."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            reply = await self._ask(attempt_id)
            if not (reply.over or reply.problem):
                return await _secrets(reply)
            if reply.over or asyncio.get_running_loop().time() > end:
                why = reply.problem or "the server has moved on without it"
                _log.warning("attempt %s: nothing more of its output is shipped: %s", attempt_id, why)
                return WITHHELD
            await asyncio.sleep(self._settings.retry_last)

    async def _ask(self, attempt_id: UUID) -> messages.SecretsReply:
        """The server's answer to this process of the runner, once that is registered."""
        pause = self._settings.retry_first
        while True:
            if self._events.identity is not None:
                runner_id, incarnation = self._events.identity
                request = messages.SecretsRequest(runner_id=runner_id, incarnation=incarnation, attempt_id=attempt_id)
                try:
                    reply = await self._channel.call("secrets", request, messages.SecretsReply)
                except LinkDown as error:
                    _log.info("attempt %s: its secrets wait for the server: %s", attempt_id, error)
                except Refused as error:
                    return messages.SecretsReply(problem=str(error))
                else:
                    if not reply.register:
                        return reply
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._settings.retry_last)


async def _secrets(reply: messages.SecretsReply) -> Secrets:
    # Also passwords within addresses, whatever their variables are called: a program may print them alone.
    values = [reply.values[name].encode() for name in reply.masked]
    values += [value.encode() for value in credentials(reply.values)]
    # In a thread: all forms of a long key take a moment.
    return Secrets(reply.values, await asyncio.to_thread(MaskSet.of, values))


def telling_names(root: Path, folders: Iterable[str], secrets: Secrets) -> list[str]:
    """A warning for each artifact folder in which files have names that hold a secret; the names masked."""
    if not secrets.wanted:
        return []
    warnings: list[str] = []
    for folder in folders:
        found = list(_told(root / folder, secrets.wanted))
        if found:
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            warnings.append(
                f"names of files in the artifact {folder} hold a secret, and whoever may list it sees them: "
                f"{', '.join(found[:MOST_NAMED])}{more}; let the job write other names"
            )
    return warnings


def _told(root: Path, wanted: MaskSet) -> Iterator[str]:
    """The masked paths below `root` whose last name holds something of `wanted`."""
    for folder, folders, files in os.walk(root):
        names = [*folders, *files]
        # One look at all names of a folder: nearly always there is nothing.
        if wanted.occurs_in(os.fsencode("/".join(names))):
            yield from (
                shown(wanted.mask(os.fsencode(os.path.relpath(os.path.join(folder, name), root))))
                for name in names
                if wanted.occurs_in(os.fsencode(name))
            )
