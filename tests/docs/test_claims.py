"""Every proof that docs/contributing/claims.md names exists, and every claim has one or says that it is open."""

from __future__ import annotations

import re

from benchmarks import artifact_rows, rows
from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs/contributing/claims.md").read_text(encoding="utf-8")
LINES = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
CLAIMS = [(cells[0], cells[-1]) for cells in LINES if cells[0] != "Claim"]
TEST = re.compile(r"(?:tests/[\w/]+\.py)?::(?:Test\w+::)?test_\w+")


def test_every_claim_has_a_proof_or_is_open() -> None:
    """A proof is a test, a row of the benchmarks, or a file of this project: nothing else, and no slip of the pen."""
    assert len(CLAIMS) > 50
    weak = [claim for claim, proof in CLAIMS if proof != "open" and "`" not in proof]
    assert not weak, weak
    unread = [
        f"{claim}: {named}"
        for claim, proof in CLAIMS
        for named in re.findall(r"`([^`]+)`", proof)
        if not (TEST.fullmatch(named) or proof.startswith("row") or (ROOT / named).is_file())
    ]
    assert not unread, "\n".join(unread)


def test_every_test_that_is_named_exists() -> None:
    missing: list[str] = []
    for claim, proof in CLAIMS:
        file = ""
        for named in TEST.findall(proof):
            path, *_, function = named.split("::")
            file = path or file
            source = ROOT / file
            if not source.is_file() or f"def {function}(" not in source.read_text(encoding="utf-8"):
                missing.append(f"{claim}: {file}::{function}")
    assert not missing, "\n".join(missing)


def test_every_row_that_is_named_is_measured() -> None:
    named = {row for _, proof in CLAIMS if proof.startswith("row") for row in re.findall(r"`([\w-]+)`", proof)}
    assert named == {*rows.NAMES, *artifact_rows.NAMES, "idle"}
