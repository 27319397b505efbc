"""What requests of people carry, read with words for whoever sent something else. Unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request

from dstack.server.services.errors import BadRequest, TooLarge
from dstack.server.services.repositories import RepositoryRef

T = TypeVar("T")
Query = Mapping[str, str]
LogCursor = dict[str, tuple[int, int]]
MOST_BYTES = 64 << 20
"""A body that is no pack is far smaller."""
MOST = 2**63 - 1
"""No number of ours is larger, and no database keeps one."""


class ValidateBody(msgspec.Struct, frozen=True):
    files: dict[str, str] = {}
    describe: str | None = None
    """A workflow or provider whose options are asked for."""
    code: tuple[str, ...] | None = None
    """The files that would be sent along."""
    contents: dict[str, bytes | None] = {}
    """What is in some of them, in base64."""


class StopBody(msgspec.Struct, frozen=True):
    abort: bool = False
    job: str | None = None
    """Only this job, or those of the workflow of this name."""
    user: str | None = None


class TagBody(msgspec.Struct, frozen=True):
    run: str
    name: str
    force: bool = False


async def read_limited(request: Request, most: int = MOST_BYTES) -> bytes:
    """The body; raises TooLarge before more than `most` bytes of it are held."""
    parts: list[bytes] = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise TooLarge(f"the request's body is larger than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def read_body(request: Request, kind: type[T]) -> T:
    """The JSON body as a `kind`; raises BadRequest saying what is wrong where."""
    raw = await read_limited(request)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request's body cannot be read: {error}") from None


def read_number(query: Query, name: str) -> int | None:
    """A whole number of the query, None where it is not given."""
    text = query.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MOST):
        raise BadRequest(f"`{name}` must be a whole number from 0, not `{text[:60]}`")
    return int(text)


def read_page_cursor(query: Query) -> UUID | None:
    """Where a list goes on: `next` of the page before."""
    text = query.get("cursor")
    if not text:
        return None
    try:
        return UUID(hex=text)
    except ValueError:
        raise BadRequest(f"`cursor` must be the `next` of an earlier page, not `{text[:60]}`") from None


def read_log_cursor(query: Query) -> LogCursor:
    """What a follower has of each job: (attempt, next offset)."""
    hint = '`cursor` is JSON such as {"train": [1, 512]}: attempt and next offset of each job'
    try:
        cursor: LogCursor = msgspec.json.decode(query.get("cursor") or "{}", type=LogCursor)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the cursor cannot be read: {error}", hint=hint) from None
    for job, (attempt, offset) in cursor.items():
        if not (0 <= attempt <= MOST and 0 <= offset <= MOST):
            raise BadRequest(f"the cursor of `{job[:60]}` names no place of a log", hint=hint)
    return cursor


def repository_of(query: QueryParams) -> RepositoryRef | None:
    """The repository that a query names by `repository` and any number of `alias`, None where it names none."""
    key = text_of(query, "repository")
    return RepositoryRef(key=key, aliases=tuple(query.getlist("alias"))) if key is not None else None


def text_of(values: Mapping[str, Any], name: str) -> str | None:
    """A text of the query, None where it is not given or empty."""
    return values.get(name) or None
