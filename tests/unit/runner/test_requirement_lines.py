from __future__ import annotations

from pathlib import Path

import pytest

from dstack.runner import requirement_lines
from dstack.runner.requirement_lines import RequirementsError

PINNED = "0" * 40


def shared(*lines: str, root: Path) -> bool:
    return requirement_lines.read(lines, root).shared


def test_lines_become_arguments_and_files_stay_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("numpy\n")
    (tmp_path / "c.txt").write_text("numpy<3\n")
    lines = (
        "torch==2.1 ; python_version > '3.8'  # gpu",
        "-r a.txt",
        "-cc.txt",
        "--index-url https://x/simple",
        "-e .",
    )
    assert requirement_lines.read(lines, tmp_path).arguments == [
        "torch==2.1 ; python_version > '3.8'",
        *("-r", "a.txt"),
        *("-c", "c.txt"),
        *("--index-url", "https://x/simple"),
        *("-e", "."),
    ]


def test_nested_files_and_local_wheels_define_the_environment(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("-r sub/b.txt\n")
    (tmp_path / "sub/b.txt").write_text("--requirement=../c.txt\n./w-1.whl\n")
    (tmp_path / "c.txt").write_text("-r a.txt\nsix\n")
    (tmp_path / "sub/w-1.whl").write_bytes(b"one")
    before = requirement_lines.read(["-r a.txt"], tmp_path)
    assert before.shared
    assert requirement_lines.read(["-r a.txt"], tmp_path).material == before.material
    (tmp_path / "sub/w-1.whl").write_bytes(b"two")
    changed = requirement_lines.read(["-r a.txt"], tmp_path)
    assert changed.material != before.material
    (tmp_path / "c.txt").write_text("-r a.txt\nsix>1\n")
    assert requirement_lines.read(["-r a.txt"], tmp_path).material != changed.material


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_file_names_defines_the_environment_in_every_encoding_that_uv_reads(
    encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("-r 'b c.txt'\n", encoding=encoding)
    (tmp_path / "b c.txt").write_text("six\n")

    found = requirement_lines.read(["-r a.txt"], tmp_path)

    assert found.material == [b"-r a.txt", b"-r 'b c.txt'", b"six"]
    assert requirement_lines.named_in("six", found) == ["`six` (b c.txt:1)"]


def test_what_is_no_text_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\n")
    (tmp_path / "b.txt").write_bytes("six\n# ä\n".encode("latin-1"))

    with pytest.raises(
        RequirementsError, match=r"file b\.txt, named in a\.txt:1, .*see line 2\); save it as .* UTF-8$"
    ):
        requirement_lines.read(["-r a.txt"], tmp_path)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "reqs").mkdir()
    (tmp_path / "reqs" / "base.txt").write_text("-r more.txt\n")
    (tmp_path / "a.txt").symlink_to("reqs/base.txt")
    (tmp_path / "more.txt").write_text("six\n")

    # Files are looked for beside the link, as pip and uv do.
    assert requirement_lines.read(["-r a.txt"], tmp_path).material == [b"-r a.txt", b"-r more.txt", b"six"]


def test_files_that_name_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n" * 2)
    (tmp_path / "60.txt").write_text("-r 0.txt\nsix\n")

    assert len(requirement_lines.read(["-r 0.txt"], tmp_path).material) == 1 + 60 * 2 + 2


def test_what_may_change_unseen_is_never_shared(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    for line in (
        "-e .",
        "--editable=./pkg",
        "./pkg",
        ".",
        "pkg @ ./pkg",
        "git+https://host/x.git",
        "x @ git+https://host/x.git@main",
        "https://host/x-main.zip",
        f"x @ file://{tmp_path}/pkg",
        "-r https://host/r.txt",
        "-r ${FOLDER}/r.txt",
    ):
        assert not shared(line, root=tmp_path), line
        (tmp_path / "r.txt").write_text(line + "\n")
        assert not shared("-r r.txt", root=tmp_path), line


def test_what_is_pinned_is_shared(tmp_path: Path) -> None:
    for line in (
        "numpy",
        "torch[cuda]>=2",
        f"x @ git+https://host/x.git@{PINNED}",
        f"git+ssh://git@host/x.git@{PINNED}#egg=x",
        "https://host/x-1.0-py3-none-any.whl",
        "https://host/x.zip#sha256=abc",
    ):
        assert shared(line, root=tmp_path), line


def test_a_missing_file_is_named_with_who_named_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("six\n\n# more\n-r gone.txt\n")
    with pytest.raises(RequirementsError, match=r"gone\.txt, named in a\.txt:4, cannot be read .*No such file"):
        requirement_lines.read(["-r a.txt"], tmp_path)


def test_files_are_called_by_their_paths_in_the_code(tmp_path: Path) -> None:
    (tmp_path / "reqs" / "more").mkdir(parents=True)
    (tmp_path / "reqs" / "bad.txt").write_text("six\nno-such==1\n-r more/x.txt\n")
    (tmp_path / "reqs" / "more" / "x.txt").write_text("\nother\n-r gone.txt\n")
    with pytest.raises(RequirementsError, match=r"file reqs/more/gone\.txt, named in reqs/more/x\.txt:3, cannot"):
        requirement_lines.read(["-r reqs/bad.txt"], tmp_path)
    (tmp_path / "reqs" / "more" / "gone.txt").touch()
    found = requirement_lines.read(["-r reqs/bad.txt"], tmp_path)
    assert requirement_lines.named_in("no-such other", found) == [
        "`no-such==1` (reqs/bad.txt:2)",
        "`other` (reqs/more/x.txt:2)",
    ]


def test_a_failure_is_traced_to_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("six\nno-such \\\n  >= 2\n\nOther_Pkg\n")
    found = requirement_lines.read(["-r a.txt"], tmp_path)
    message = "Because no-such was not found in the package registry and you require no-such>=2, …"
    assert requirement_lines.named_in(message, found) == ["`no-such   >= 2` (a.txt:2)"]
    assert requirement_lines.named_in("failed to build other-pkg==1", found) == ["`Other_Pkg` (a.txt:5)"]
