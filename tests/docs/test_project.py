"""What the project's own files promise about each other."""

from __future__ import annotations

import re
import tomllib

from tests.docs.markdown import ROOT, blocks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMPORT_NAMES = {"ahocorasick-rs": "ahocorasick_rs", "pyyaml": "yaml"}


def declared() -> set[str]:
    """The import names of every declared dependency, optional ones too."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_the_standard_library_contract_forbids_every_dependency() -> None:
    contracts = {contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
    assert set(contracts["standard-library"]["forbidden_modules"]) == declared()


def test_the_lock_files_name_no_host() -> None:
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        if path.suffix == ".txt":
            pins = re.findall(r"^[a-z0-9][\w.-]*==[^ ]+( ;[^\\\n]*)? \\$", text, re.MULTILINE)
            assert len(pins) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)), f"{path.name}: every pin has hashes"


def test_every_dependency_is_explained() -> None:
    page = (ROOT / "docs/design/dependencies.md").read_text(encoding="utf-8")
    lines = [
        *PROJECT["project"]["dependencies"],
        *(ROOT / "requirements/dev.in").read_text(encoding="utf-8").splitlines(),
    ]
    names = {re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].lower() for line in lines if line and line[0] != "#"}
    missing = {name for name in names if f"| `{name}`" not in page}
    assert not missing, f"docs/design/dependencies.md says nothing about {', '.join(sorted(missing))}"


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Tests\n", 1)[1]
    command = blocks(section)[0].text.strip()
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
