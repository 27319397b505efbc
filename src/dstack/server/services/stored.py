"""The msgpack blobs in the rows: what is read whole and never searched."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dstack.domain.resources import Requirements


class StoredSubmission(msgspec.Struct, frozen=True, omit_defaults=True):
    """`submissions.body`: what the submitter's shell gave, kept for every attempt of the run."""

    args: tuple[str, ...] = ()
    files: dict[str, str] = {}
    environment: dict[str, str] = {}
    private: tuple[str, ...] = ()
    """Names of the submitting shell's variables whose values are sealed in `run_values`."""
    python: str | None = None
    python_version: str | None = None
    root: str | None = None
    tags: tuple[str, ...] = ()


class StoredInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot pinned at submission."""

    path: str
    manifest_id: bytes
    content_id: bytes
    run_name: str
    job_name: str
    workflow: str
    tag: str | None = None
    partial: bool = False
    instead: str = ""
    """Of a snapshot that a job begins from: why it is not the last (`domain.resuming.Instead`)."""


class StoredPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """`steps.plan`: parameters, where each came from, and pinned inputs."""

    variables: dict[str, tuple[str | int | float | bool | None, str]] = {}
    inputs: tuple[StoredInput, ...] = ()
    needs: tuple[str, ...] = ()
    condition: str = ""
    """The step's `if:` as it was written."""
    resumed_from: str = ""
    """The run that this one resumes; it stays its name when that run is deleted."""
    reused: tuple[StoredInput, ...] = ()
    """The artifacts of its jobs that did not run again."""
    begins: tuple[StoredInput, ...] = ()
    """The snapshots that its other jobs begin from."""


class _Condition(msgspec.Struct, frozen=True):
    """The part of a stored plan that tells why a step was skipped."""

    condition: str = ""


def condition_of(plan: bytes) -> str:
    """The `if:` of a step, from its stored plan."""
    return msgspec.msgpack.decode(plan, type=_Condition).condition


MOST_WARNINGS = 20
"""Of one attempt: a job may leave a thousand files that cannot be read, and its log names them all."""


def kept_warnings(warnings: Sequence[str]) -> bytes | None:
    """`attempts.save_warnings`: the first of them and how many more there are; None where there are none."""
    if not warnings:
        return None
    more = len(warnings) - MOST_WARNINGS
    told = [*warnings[:MOST_WARNINGS], f"and {more} more, which its log names"] if more > 0 else list(warnings)
    return msgspec.msgpack.encode(told)


def decode_warnings(blob: bytes | None) -> list[str]:
    return msgspec.msgpack.decode(blob, type=list[str]) if blob is not None else []


_need_encoder = msgspec.json.Encoder(order="sorted")


def encode_need(requirements: Requirements) -> str:
    """`jobs.need`: requirements in one canonical text, so that equal ones are placed as one group."""
    return _need_encoder.encode(requirements).decode()


def decode_need(text: str) -> Requirements:
    return msgspec.json.decode(text, type=Requirements)
