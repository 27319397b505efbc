"""What the Python environments of jobs held: each list is stored once, and attempts name it by its digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from blake3 import blake3
from sqlalchemy import and_, select

from dstack.server.db.engine import Transaction
from dstack.server.db.tables import attempts, jobs, package_lists


def keep(tx: Transaction, project_id: UUID, packages: Sequence[str]) -> bytes:
    """Store a list, unless it is there; returns its digest."""
    text = "\n".join(packages).encode()
    digest = blake3(text).digest()
    tx.insert_new(package_lists, {"project_id": project_id, "digest": digest, "packages": text})
    return digest


def of_run(tx: Transaction, project_id: UUID, run_id: UUID) -> list[dict[str, Any]]:
    """`{job, packages}` for the newest attempt of each job whose environment is known, in plan order."""
    query = (
        select(jobs.c.name, package_lists.c.packages)
        .join(
            attempts,
            and_(
                attempts.c.project_id == jobs.c.project_id,
                attempts.c.job_id == jobs.c.id,
                attempts.c.number == jobs.c.attempt,
            ),
        )
        .join(
            package_lists,
            and_(
                package_lists.c.project_id == attempts.c.project_id,
                package_lists.c.digest == attempts.c.packages,
            ),
        )
        .where(jobs.c.project_id == project_id, jobs.c.run_id == run_id)
        .order_by(jobs.c.submitted_at, jobs.c.id)
    )
    return [{"job": row.name, "packages": bytes(row.packages).decode().splitlines()} for row in tx.execute(query)]


def versions(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name → version (or address) over the jobs of a run; several where they differ, in order of their jobs."""
    found: dict[str, dict[str, None]] = {}
    for item in items:
        for line in item["packages"]:
            name, version = _parted(line)
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _parted(line: str) -> tuple[str, str]:
    for mark in ("==", " @ "):
        name, found, version = line.partition(mark)
        if found:
            return name, version
    return line, ""
