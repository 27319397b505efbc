"""Tags that are wrong, missing, or change at a bad moment (F36), with real processes."""

from __future__ import annotations

import pytest

from tests.faults.home import Home

WORKFLOWS = """\
workflows:
  - {name: make, provider: bash, artifacts: [out], commands: ['echo ${{ text }} > out/text']}
  - {name: bad, provider: bash, artifacts: [out], commands: [echo half > out/text, exit 3]}
  - {name: gate, provider: bash, commands: [touch $HOME/begun, 'until [ -e $HOME/go ]; do sleep 0.02; done']}
  - {name: use, provider: bash, depends-on: [gate], deps: [':good'], commands: [cat out/text]}
"""


@pytest.fixture(autouse=True)
def files(home: Home) -> None:
    home.write(WORKFLOWS)
    (home.repo / ".dstack" / "variables.yaml").write_text("variables: {make: {text: one}}\n")


@pytest.mark.parametrize("change", ["moved", "deleted", "its run deleted"])
def test_what_a_run_was_given_stays(home: Home, change: str) -> None:
    """A tag is looked up once, when the run is submitted: what happens to it before the job begins changes nothing."""
    home.types("run", "make", "-t", "good")
    (first,) = [run["name"] for run in home.runs()]
    name = home.detached("use")
    home.wait(lambda: (home.root / "begun").exists() or None, "the job before it has begun")
    if change == "moved":
        home.types("run", "make", "--text", "two", "-t", "good")
    else:
        home.types("untag", "good")
    if change == "its run deleted":
        assert name in home.types("rm", "-y", first, code=1).stderr, "who uses it is named"
    (home.root / "go").touch()
    home.wait_status(name, "done")
    assert home.log(name)["use"] == b"one\n"
    if change == "its run deleted":
        home.types("rm", "-y", first)


def test_a_missing_tag_is_told_with_what_there_is(home: Home) -> None:
    home.types("run", "make", "-t", "goods")
    (home.root / "go").touch()
    runs = len(home.runs())
    for words in (["run", "use"], ["run", "--plan", "use"]):
        said = home.types(*words, code=2).stderr
        assert said.startswith(".dstack/workflows.yaml:5:")
        assert "there is no tag `:good`" in said
        assert "goods" in said.partition("hint: ")[2]
    for words in (["untag", "good"], ["artifacts", "list", ":good"], ["artifacts", "download", ":good"]):
        assert "there is no tag `good`" in home.types(*words, code=2).stderr
    assert len(home.runs()) == runs


def test_a_failed_run_is_tagged_by_force_only(home: Home) -> None:
    home.types("run", "bad", "-t", "good", code=3)
    (home.root / "go").touch()
    name = home.runs()[0]["name"]
    assert home.types("tags", "list", "--json").stdout == "[]\n"
    said = home.types("tag", name, "good", code=2).stderr
    assert "its artifacts may be partial" in said
    assert "--force" in said
    home.types("tag", "--force", name, "good")
    assert "partial" in home.types("tags", "list").stdout
    done = home.types("run", "use")
    assert "partial" in done.stderr, "who uses it is told"
    assert done.stdout == "use  | half\n"


def test_odd_names_are_refused(home: Home) -> None:
    """At the command line, before a run, and as a dependency: nothing is tagged, and nothing runs."""
    home.types("run", "make")
    name = home.runs()[0]["name"]
    for tag in ("..", ".", "a/b", "a:b", "a b", "é", "-x", "#", "@", "x" * 101, "\x1b[31m", "a\nb"):
        words = ["tag", name, "--", tag] if tag.isascii() else ["run", "make", f"--tag={tag}"]
        said = home.types(*words, code=2).stderr
        assert "cannot be a tag" in said, words
        assert "\x1b" not in said
    assert home.types("tags", "list", "--json").stdout == "[]\n"
    assert len(home.runs()) == 1
