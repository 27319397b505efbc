"""Providers that cannot run yet read all their keys, and say what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from dstack.providers import registry
from dstack.sdk.provider import JobSpec, PlanError

Planned = Callable[..., JobSpec]
COMMON: dict[str, Any] = {
    "environment": {"A": "b"},
    "artifacts": ["out"],
    "resources": {"gpu": 1},
    "working_dir": "src",
}
PYTHON: dict[str, Any] = {**COMMON, "requirements": ["x"], "before_run": ["a"]}
KEYS: dict[str, dict[str, Any]] = {
    "docker": {**PYTHON, "image": "ubuntu", "commands": ["a"], "ports": 1, "artifacts": ["/opt/conda/envs/x"]},
    "notebook": {**PYTHON, "version": "3.10"},
    "lab": {**PYTHON, "python": "3.9", "ports": 2},
    "code": {**PYTHON, "version": "1.72.3"},
    "streamlit": {**PYTHON, "target": "app.py", "args": "--x 1", "version": "3.10"},
    "gradio": {**PYTHON, "file": "app.py", "args": ["--x"], "version": "3.10"},
    "fastapi": {**PYTHON, "app": "main:app", "version": "3.10", "uvicorn": "--workers 2", "args": ["--reload"]},
    "tensorboard": {**COMMON, "runs": ["goose-1", "wolf-2"], "logdir": "lightning_logs", "version": "2.10"},
}
REQUIRED = {
    "docker": "image", "streamlit": "target", "gradio": "file", "fastapi": "app", "tensorboard": "runs",
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_it_says_what_to_do_instead(name: str, planned: Planned) -> None:
    with pytest.raises(PlanError, match=f"`{name}` cannot run yet") as caught:
        planned(name, KEYS[name])

    assert caught.value.at == (("image",) if name == "docker" else ("provider",))
    assert caught.value.hint


@pytest.mark.parametrize("name", KEYS)
def test_other_keys_are_refused(name: str) -> None:
    config = registry()[name].Config
    with pytest.raises(ValidationError) as caught:
        config.model_validate({"name": "x", "provider": name, **KEYS[name], "colour": "red"})

    assert [error["loc"] for error in caught.value.errors()] == [("colour",)]


@pytest.mark.parametrize(("name", "key"), REQUIRED.items())
def test_what_must_be_given(name: str, key: str) -> None:
    config = registry()[name].Config
    with pytest.raises(ValidationError) as caught:
        config.model_validate({"name": "x", "provider": name, **{k: v for k, v in KEYS[name].items() if k != key}})

    assert [error["loc"] for error in caught.value.errors()] == [(key,)]


def test_every_provider_that_cannot_run_is_here() -> None:
    pending = {name for name, kind in registry().items() if kind.__module__ == "dstack.providers.pending"}

    assert pending == KEYS.keys()
