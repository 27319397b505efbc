"""The example that the README runs has the shape of the project's first README, and shows every part of it."""

from __future__ import annotations

from typing import Any

import yaml

from tests.docs.markdown import ROOT

DIGITS = ROOT / "examples" / "digits"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DIGITS / ".dstack" / name).read_text(encoding="utf-8"))


def test_digits_shows_every_part_of_a_workflow() -> None:
    workflows = {workflow["name"]: workflow for workflow in read("workflows.yaml")["workflows"]}
    prepare, train, evaluate = (workflows[name] for name in ("prepare", "train", "evaluate"))
    assert {workflow["provider"] for workflow in workflows.values()} == {"python"}
    for workflow in (prepare, train):
        assert (DIGITS / workflow["script"].split()[0]).is_file()
        assert (DIGITS / workflow["requirements"]).is_file()
    assert (prepare["artifacts"], train["artifacts"]) == (["data"], ["checkpoint"])
    assert train["depends-on"] == ["prepare"]
    assert "prepare:latest" in evaluate["depends-on"]
    assert {"memory", "gpu"} <= set(train["resources"])
    assert train["resources"]["gpu"] == "${{ gpu }}"
    assert "${{ epochs }}" in train["script"]


def test_digits_declares_the_variables_of_the_readmes_command() -> None:
    variables = read("variables.yaml")["variables"]
    assert "seed" in variables["global"]
    assert {"epochs", "gpu"} <= set(variables["train"])
