"""Column types whose form differs between SQLite and PostgreSQL, without a conversion that is not needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, LargeBinary, Uuid
from sqlalchemy.types import TypeDecorator, TypeEngine


class Id(TypeDecorator[UUID]):
    """A UUID: PostgreSQL's own `uuid`, 16 bytes in a BLOB on SQLite; both sort as the UUID does.

    The processors are overridden, rather than `process_bind_param`, because each row passes here several times.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Uuid() if dialect.name == "postgresql" else LargeBinary(16)

    def bind_processor(self, dialect: Dialect) -> Callable[[UUID | None], bytes | None] | None:  # pyright: ignore[reportIncompatibleMethodOverride] -- the base class says Any where we know better
        return None if dialect.name == "postgresql" else _to_bytes

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[bytes | None], UUID | None] | None:  # pyright: ignore[reportIncompatibleMethodOverride] -- as above
        return None if dialect.name == "postgresql" else _from_bytes


def _to_bytes(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


@lru_cache(maxsize=4096)  # the same few ids come again and again, and making a UUID takes 20 times as long
def _from_bytes(value: bytes | None) -> UUID | None:
    return None if value is None else UUID(bytes=value)
