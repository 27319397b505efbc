"""The key `retry` of workflows: when a job that failed is tried again."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from dstack.domain.reasons import MAY_RETRY, Reason
from dstack.sdk.fields import Count, Seconds, Section, listed, together, wrong
from dstack.sdk.scalars import shown, text_of

RETRY_WORDS: dict[str, frozenset[Reason]] = {
    "any": frozenset(reason for reason in Reason if MAY_RETRY[reason]),
    "failure": frozenset({Reason.EXIT_CODE, Reason.SIGNAL, Reason.OOM}),
    "lost": frozenset({Reason.RUNNER_LOST, Reason.PREEMPTED, Reason.UNKNOWN_EXIT}),
}
"""Words for several reasons: all that may be retried; the program ended badly; its machine or runner was lost."""
RETRY_REASONS: dict[str, frozenset[Reason]] = {
    **RETRY_WORDS,
    **{reason.value: frozenset({reason}) for reason in Reason if MAY_RETRY[reason]},
}
"""What `retry: {on: …}` may name."""


def _reasons(value: object) -> frozenset[Reason]:
    found: set[Reason] = set()
    errors: list[PydanticCustomError] = []
    for index, item in enumerate(listed(value)):
        word = text_of(item) if isinstance(item, str) else ""
        if word in RETRY_REASONS:
            found |= RETRY_REASONS[word]
        else:
            hint = f"known: {', '.join(RETRY_REASONS)}"
            errors.append(wrong(f"{shown(item)} is no reason to try again", hint, (index,)))
    if errors:
        raise together(errors)
    return frozenset(found)


_RETRY_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"enum": list(RETRY_REASONS)},
            {"type": "array", "items": {"enum": list(RETRY_REASONS)}, "minItems": 1},
        ]
    },
    mode="validation",
)


class Retry(Section):
    """When a job that failed is tried again."""

    on: Annotated[frozenset[Reason], BeforeValidator(_reasons), _RETRY_SCHEMA] = Field(
        default=RETRY_WORDS["any"],
        description="Why a job may be tried again: `any` (as where nothing is said), `failure` (exit-code, signal, "
        "oom), `lost` (runner-lost, preempted, unknown-exit), or one of these reasons, or `timeout`.",
        examples=["[lost, oom]"],
        min_length=1,
    )
    max: Count = Field(default=3, description="How many more attempts there may be; those that never started are free.")
    backoff: Seconds = Field(
        default=1.0,
        description="How long to wait before the first of them, as seconds or `30s`; doubled every time.",
        examples=["30s"],
    )
