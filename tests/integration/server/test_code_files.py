"""Requirements files of the code that is sent: what encodings and links lead to, told before a run is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.sdk.requirement_files import NotText
from dstack.server.services import code_files, runs
from dstack.server.services.catalog import store_of
from dstack.server.services.runs import CodeRef
from dstack.snapshots.capture import save
from dstack.workflows import Invalid
from tests.support.world import World

TEXT = "workflows:\n- {name: train, provider: bash, commands: ['true'], requirements: {name}}\n"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "reqs" / "deep").mkdir(parents=True)
    (folder / "reqs" / "deep" / "base.txt").write_text("six\n")
    return folder


def read(world: World, code: Path, path: str) -> str | None:
    saved = save(code, store_of(world.context))
    return code_files.read_text(world.context, saved.manifest_id, path)


def told(world: World, code: Path, name: str) -> list[str]:
    """What is said of a submission whose workflow names the requirements file `name`."""
    saved = save(code, store_of(world.context))
    ref = CodeRef(saved.manifest_id.hex(), saved.content_id.hex())
    submission = world.submission(TEXT.replace("{name}", name), "train", code=ref)
    try:
        runs.plan(world.context, submission)
    except Invalid as error:
        return [f"{each.message}; {each.hint}" for each in error.diagnostics]
    return []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, code: Path, world: World) -> None:
    (code / "r.txt").write_text("six\nnumpy==\n", encoding=encoding)

    (message,) = told(world, code, "r.txt")

    assert message.startswith("r.txt:2: `numpy==` is no requirement")


def test_what_is_no_text_is_said_to_be_none(code: Path, world: World) -> None:
    (code / "r.txt").write_bytes("six\n# ä\n".encode("latin-1"))

    assert told(world, code, "r.txt") == [
        "`r.txt` is not text in UTF-8: see line 2; save it as a text file in UTF-8",
    ]


@pytest.mark.parametrize("target", ["reqs/deep/base.txt", "./reqs/../reqs/deep/base.txt", "other.txt", "up/base.txt"])
def test_links_are_followed(target: str, code: Path, world: World) -> None:
    (code / "r.txt").symlink_to(target)
    (code / "other.txt").symlink_to("reqs/deep/base.txt")
    (code / "up").symlink_to("reqs/deep")

    assert read(world, code, "r.txt") == "six\n"
    assert read(world, code, "up/base.txt") == "six\n"
    assert told(world, code, "r.txt") == []


def test_files_are_looked_for_beside_a_link(code: Path, world: World) -> None:
    (code / "r.txt").symlink_to("reqs/deep/base.txt")
    (code / "reqs" / "deep" / "base.txt").write_text("-r more.txt\n")
    (code / "more.txt").write_text("numpy==\n")

    (message,) = told(world, code, "r.txt")

    assert message.startswith("more.txt:1: `numpy==`")


@pytest.mark.parametrize("target", ["/etc/hostname", "../code/reqs/deep/base.txt", "gone.txt", "r.txt", "reqs"])
def test_links_that_lead_to_no_file_of_the_code(target: str, code: Path, world: World) -> None:
    (code / "r.txt").symlink_to(target)

    with pytest.raises(NotText, match=r"^is a link to what is not in the code that is sent"):
        read(world, code, "r.txt")
    (message,) = told(world, code, "r.txt")
    assert message.startswith("`r.txt` is a link to what is not in the code that is sent; ")
    assert "UTF-8" not in message


def test_what_is_not_there(code: Path, world: World) -> None:
    for path in ("r.txt", "reqs", "reqs/deep", "reqs/deep/base.txt/more", "reqs/deep/other.txt"):
        assert read(world, code, path) is None
    assert told(world, code, "r.txt")[0].startswith("there is no file `r.txt` in the code that is sent; ")


def test_what_is_too_large(code: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_files, "MOST_BYTES", 3)

    with pytest.raises(NotText, match=r"^is larger than"):
        read(world, code, "reqs/deep/base.txt")
