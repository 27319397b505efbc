"""References to secrets in commands, as bash itself reads them: the value arrives whole, wherever it was asked for."""

from __future__ import annotations

import subprocess

import pytest

from dstack.workflows.shell import Command

VALUE = "a  b*$x\"'c`d\\"
"""What any mistake in quoting would take apart."""

PLACES = [
    # What stands before and after the reference.
    ("printf %s ", ""),
    ("printf %s a", "b"),
    ('printf %s "', ' z"'),
    ("printf %s '", " z'"),
    ("printf %s $'q\\n", " z'"),
    ("printf %s $'it\\'s", " z'"),
    ("# don't\nprintf %s ", ""),
    ("printf %s a#b' ", "'"),
    ("if true; then # it's\nprintf %s \"", '"; fi'),
    ('printf %s "$(printf %s ', ')"'),
    ('printf %s "$(printf %s "', '")"'),
    ('printf %s "$(printf %s "${nope:-', '}")"'),
    ('printf %s "`printf %s "', '"`"'),
    ('printf %s "${nope:-', '}"'),
    ("printf %s ${nope:-", "}"),
    ("(printf %s ", ")"),
    ("cat <<<", ""),
    ("printf %s $(( 1 + 2 ))", ""),
    ("printf %s 'a'\\''b' ", ""),
    ('printf %s "a\'b" ', ""),
    ('printf %s \\"', ""),
    ('printf %s "\\"', '"'),
    ("printf %s x'y'z", ""),
    ("cat <<EOF\nit's ", "\nEOF"),
    ("cat <<-EOF\n\t`true` ", "\n\tEOF"),
    ("cat <<-EOF\n\tx\n\tEOF\nprintf %s ", ""),
    ("cat <<EOF <<'B'\nx\nEOF\ny'\nB\nprintf %s ", ""),
    ('cat <<"A B"\n$(don\'t\nA B\nprintf %s ', ""),
]


def reference(before: str, times: int = 1) -> str | None:
    """The last of `times` references that follow each other after `before`."""
    command = Command()
    command.write(before)
    return [command.reference("SECRET") for _ in range(times)][-1]


@pytest.mark.parametrize(("before", "after"), PLACES)
def test_the_value_arrives_whole(before: str, after: str) -> None:
    written = reference(before)
    assert written is not None
    done = subprocess.run(
        ["bash", "-c", f"{before}{written}{after}"],
        env={"SECRET": VALUE, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert VALUE in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(("before", "after"), PLACES)
def test_a_second_reference_in_the_same_place_works_too(before: str, after: str) -> None:
    """The first one leaves the quotes as it found them."""
    first = f"{before}{reference(before)}"
    written = reference(before, 2)
    assert written == reference(first)
    done = subprocess.run(
        ["bash", "-c", f"{first}{written}{after}"],
        env={"SECRET": VALUE, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert VALUE + VALUE in done.stdout


@pytest.mark.parametrize("before", ["cat <<'EOF'\n", "cat <<\\EOF\nx ", "printf %s \\", "printf %s $'a\\"])
def test_where_bash_sees_no_variable_there_is_no_reference(before: str) -> None:
    assert reference(before) is None


@pytest.mark.parametrize(
    ("parts", "written"),
    [
        (["cat <<'A' <<B\n", "\nA\n", "\nB\n'"], [None, "${SECRET}", "'\"${SECRET}\"'"]),
        (["cat <<A\n", "A\n", "\nA\n"], ["${SECRET}", "${SECRET}", '"${SECRET}"']),
        (["# it's ", " '\n'", "' \\", "'"], ["${SECRET}", "'\"${SECRET}\"'", None, "'\"${SECRET}\"'"]),
        (["$'a", "\\", "'", "b'"], ["'\"${SECRET}\"$'", None, '"${SECRET}"', "'\"${SECRET}\"'"]),
        (['"$(', "#", ')"', '"'], ['"${SECRET}"', '"${SECRET}"', '"${SECRET}"', "${SECRET}"]),
    ],
)
def test_what_is_open_stays_open_behind_a_reference(parts: list[str], written: list[str | None]) -> None:
    command = Command()
    found: list[str | None] = []
    for part in parts:
        command.write(part)
        found.append(command.reference("SECRET"))

    assert found == written
