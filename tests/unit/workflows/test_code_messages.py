"""What is said of workflows that do not fit the code that is sent with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from dstack.providers import registry
from dstack.sdk.requirement_files import decode
from dstack.workflows import Diagnostic, Invalid, load, plan
from tests.support.growth import TIMES, growth


def told(
    keys: str,
    files: Mapping[str, str],
    *args: str,
    root: str = "",
    read: Callable[[str], str | None] | None = None,
) -> list[Diagnostic]:
    """Of the one workflow with `keys`, planned with a code of `files`."""

    def nothing(*_: object) -> list[object]:
        raise AssertionError("it depends on nothing")

    text = f"{root}workflows:\n- name: train\n  {keys}\n"
    try:
        planned = plan(
            load({".dstack/workflows.yaml": text}, registry()),
            "train",
            args,
            run_name="goose-1",
            read_text=read or files.get,
            exists=lambda path: any(f"{file}/".startswith(f"{path}/") for file in files),
            list_files=lambda: sorted(files),
            resolve_tag=nothing,  # pyright: ignore[reportArgumentType]
            newest_done=nothing,  # pyright: ignore[reportArgumentType]
        )
    except Invalid as error:
        return list(error.diagnostics)
    return list(planned.warnings)


@pytest.mark.parametrize(
    ("requirements", "files", "hint"),
    [
        ("numpy", ["m.py"], "or in a list: `requirements: [numpy]`"),
        ("numpy scipy", ["m.py"], "or in a list: `requirements: [numpy, scipy]`"),
        ("numpy, scipy", [], "or in a list: `requirements: [numpy, scipy]`"),
        ("torch >= 2", [], "or in a list: `requirements: [torch >= 2]`"),
        ("requirements", ["requirements.txt"], "did you mean `requirements.txt`?"),
        ("reqs", ["reqs.txt", "m.py"], "did you mean `reqs.txt`?"),
        ("reqs.txt", ["m.py"], "create it"),
    ],
)
def test_packages_in_place_of_a_file(requirements: str, files: list[str], hint: str) -> None:
    (error,) = told(f"commands: [echo]\n  requirements: {requirements}", dict.fromkeys(files, ""))

    assert error.message == f"there is no file `{requirements}` in the code that is sent"
    assert hint in error.hint
    assert "m.py" not in error.hint


@pytest.mark.parametrize("files", [[], ["req.txt"]])
def test_a_file_that_is_named_as_an_installer_takes_it(files: list[str]) -> None:
    (error,) = told("commands: [echo]\n  requirements: -r req.txt", dict.fromkeys(files, ""))
    assert error.message == "there is no file `-r req.txt` in the code that is sent"
    assert error.hint == "name the file alone: `requirements: req.txt`"
    (error,) = told("commands: [echo]\n  requirements: -c limits.txt", dict.fromkeys(files, ""))
    assert error.hint == "options stand in a list: `requirements: [-c limits.txt]`"
    assert not told("commands: [echo]\n  requirements: [-c limits.txt]", {"limits.txt": ""})


def test_very_many_packages_in_place_of_a_file() -> None:
    packages = "".join(f"    package-{number}\n" for number in range(3000))

    (error,) = told(f"commands: [echo]\n  requirements: |\n{packages}", {})

    assert error.message.startswith("there is no file `package-0 package-1 package-2")
    assert "`requirements: [package-0, package-1, " in error.hint
    assert len(error.message) < 200
    assert len(error.hint) < 300


def test_a_long_text_in_place_of_a_file_takes_no_longer_than_its_length() -> None:
    def keys(size: int) -> str:
        return f"commands: [echo]\n  requirements: 'a{' ' * size}='"

    assert growth(keys, lambda text: told(text, {}), 4000) < 3 * TIMES


@pytest.mark.parametrize("name", ["python", "python3", "python3.11"])
def test_python_in_the_script(name: str) -> None:
    (error,) = told(f"provider: python\n  script: {name} t.py --x 'a b'", {"t.py": ""})

    assert error.hint == "`script` names the file that Python runs: write `script: t.py --x 'a b'`"


@pytest.mark.parametrize(
    "keys", ["provider: python\n  script: t.py", "commands: [echo]", "commands: [echo]\n  requirements: r.txt"]
)
def test_a_working_directory_that_is_not_there(keys: str) -> None:
    files = {"t.py": "", "other/t.py": ""}

    (error,) = told(f"{keys}\n  working_dir: nodir", files)
    assert (error.line, error.column) == (len(keys.splitlines()) + 3, 16)
    assert error.message == "there is no folder `nodir` in the code that is sent"
    (error,) = told(keys, files, "--working-dir", "nodir")
    assert error.source == "--working-dir nodir"


def test_working_directories_that_may_be_there() -> None:
    files = {"a/b/t.py": "", "link": ""}

    assert told("commands: [echo]\n  working_dir: a/b", files) == []
    assert told("commands: [echo]\n  working_dir: link/more", files) == []
    assert told("commands: [echo]\n  working_dir: out\n  artifacts: [model]", files) == []


@pytest.mark.parametrize("pattern", ["g.py", "/src/g.py", "src/", "*.py", "src/*"])
def test_what_code_leaves_out_is_told_of(pattern: str) -> None:
    keys = "provider: python\n  script: src/g.py"

    (own,) = told(f"{keys}\n  code: {{exclude: [{pattern!r}]}}", {"t.py": ""})
    (of_the_root,) = told(keys, {"src/t.py": ""}, root=f"code: {{exclude: [a, {pattern!r}]}}\n")

    assert own.hint == f"`code: {{exclude: […]}}` leaves it out: take `{pattern}` in .dstack/workflows.yaml:5 away"
    assert of_the_root.hint.endswith(f"take `{pattern}` in .dstack/workflows.yaml:1 away")
    (other,) = told(f"{keys}\n  code: {{exclude: [other, g]}}", {"t.py": ""})
    assert "code" not in other.hint


def test_all_that_is_missing_comes_at_once() -> None:
    keys = "provider: python\n  script: s.py\n  requirements: r.txt\n  resources: {remote: true}"

    assert [error.line for error in told(keys, {"t.py": ""})] == [4, 5, 6]


def test_lines_of_a_requirements_file() -> None:
    text = "# packages\nnumpy==\nscipy>=1,<2  # fine\n-r other.txt\nfoo bar\ntorch==2 \\\n  --hash=sha256:ab\nx=1\n"
    keys = "commands: [echo]\n  requirements: reqs/bad.txt"

    errors = told(keys, {"reqs/bad.txt": text, "reqs/other.txt": ""})

    assert {error.line for error in errors} == {4}
    assert [error.message for error in errors] == [
        "reqs/bad.txt:2: `numpy==` is no requirement: no version follows `==`",
        "reqs/bad.txt:5: `foo bar` is no requirement: `bar` after the name is no version",
        "reqs/bad.txt:8: `x=1` is no requirement: versions are compared with `==`: write `x==1`",
    ]


def test_lines_of_files_that_a_requirements_file_names() -> None:
    files = {
        "reqs/all.txt": "-r base.txt\n\n-c ../limits.txt  # the most\n--requirement='sub/more.txt'\n-r base.txt\nx=1\n",
        "reqs/base.txt": "numpy==\n-r all.txt\n",
        "limits.txt": "scipy<<2\n",
        "reqs/sub/more.txt": "six\n-r gone.txt\n-r ../../../outside.txt\n-r https://x.org/r.txt\n"
        "-r ${HERE}/r.txt\n-r r-${HERE}.txt\n-r /opt/r.txt\n",
    }

    errors = told("commands: [echo]\n  requirements: reqs/all.txt", files)

    assert [error.message.partition("`")[0] for error in errors] == [
        "reqs/all.txt:6: ", "reqs/base.txt:1: ", "limits.txt:1: ", "reqs/sub/more.txt:2: there is no file ",
    ]  # fmt: skip
    assert "`reqs/sub/gone.txt` in the code that is sent" in errors[3].message
    assert "create it" in errors[3].hint
    assert {(error.line, error.column) for error in errors} == {(4, 17)}


def test_files_that_name_each_other_many_times_are_read_once() -> None:
    files = {f"{number}.txt": f"-r {number + 1}.txt\n" * 2 for number in range(100)}

    (error,) = told("commands: [echo]\n  requirements: 0.txt", {**files, "100.txt": "x=1"})

    assert error.message.startswith("100.txt:1: ")


def test_files_of_a_list_of_requirements() -> None:
    files = {"limits.txt": "numpy==\n"}

    errors = told("commands: [echo]\n  requirements: [numpy, -c limits.txt, --constraint=gone.txt]", files)

    assert [(error.column, error.message.split("`")[0]) for error in errors] == [
        (25, "limits.txt:1: "),
        (40, "there is no file "),
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("nümpy\n".encode("latin-1"), "`r.txt` is not text in UTF-8: see line 1"),
        ("six\n# ä\n".encode("latin-1"), "`r.txt` is not text in UTF-8: see line 2"),
        ("six\n".encode("utf-16-le"), "`r.txt` is not text in UTF-8: it may be in UTF-32, or in UTF-16 without"),
        ("six\n".encode("utf-32"), "`r.txt` is not text in UTF-8: it may be in UTF-32, or in UTF-16 without"),
    ],
)
def test_a_requirements_file_that_is_no_text(data: bytes, why: str) -> None:
    def read(path: str) -> str | None:
        return {"r.txt": lambda: decode(data), "all.txt": lambda: "six\n-r r.txt"}.get(path, lambda: None)()

    (error,) = told("commands: [echo]\n  requirements: r.txt", {"r.txt": "", "all.txt": ""}, read=read)
    (nested,) = told("commands: [echo]\n  requirements: all.txt", {"r.txt": "", "all.txt": ""}, read=read)

    assert error.message.startswith(why)
    assert nested.message.startswith(f"all.txt:2: {why}")
    assert error.hint == nested.hint == "save it as a text file in UTF-8"


@pytest.mark.parametrize(
    ("commands", "written"),
    [
        ("[echo a: b, ls]", "echo a: b"),
        ("[ls, echo a: b  ]", "echo a: b"),
        ("[ls, echo a: b # words\n  ]", "echo a: b"),
        ("[\n    echo a: 'b c',\n    ls]", "echo a: 'b c'"),
        ("[echo a: , ls]", "echo a:"),
        ("[echo a: [1], ls]", "echo a: [1]"),
        ("\n  - echo a: b # words\n  - ls", "echo a: b"),
        ("\n  - echo a:\n  - ls", "echo a:"),
        ("\n  - echo a: {b: c}\n  - ls", "echo a: {b: c}"),
        ("[{a: b}]", ""),
        ("[&x ls, echo a: *x]", ""),
        ("\n  - echo a:\n      b: c", ""),
    ],
)
def test_a_text_that_became_a_mapping_is_put_in_quotes_alone(commands: str, written: str) -> None:
    (error,) = told(f"provider: bash\n  commands: {commands}", {})

    assert error.message.endswith("expected text, not a mapping")
    assert error.hint == (f'`: ` makes it a mapping; put it in quotes: `"{written}"`' if written else "")


def test_requirements_of_a_list() -> None:
    errors = told("commands: [echo]\n  requirements: [numpy, 'numpy==', foo bar, reqs.txt]", {})

    assert [(error.line, error.column) for error in errors] == [(4, 25), (4, 36)]
