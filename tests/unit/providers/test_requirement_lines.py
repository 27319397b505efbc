"""Which lines of requirements are told of, and that nothing that an installer takes is."""

from __future__ import annotations

import pytest
from packaging.requirements import InvalidRequirement, Requirement

from dstack.providers.requirement_lines import trouble

RIGHT = [
    "numpy", "numpy==1.26.4", "numpy ~= 1.26", "torch>=2.1,<3", "a[b,c]", "a [b]>=1", "a[]", "a (>=1)", "a==1.*",
    "a!=1.0.post1", "a===anything", "a==1!2.0+cu121", "a; python_version < '3.12'", "a>=1 ; sys_platform == 'linux'",
    "a @ https://x.org/a.whl", "zope.interface", "A-b_c.d<=v1.0rc1", "a>1,", "a==2.0.dev1",
]  # fmt: skip
LEFT_TO_THE_INSTALLER = [
    "", "# words", "-r other.txt", "--index-url https://x.org", "./folder", ".", "git+https://x.org/a", "a.whl",
    "folder/a", "${NAME}==1", "a==1 --hash=sha256:ab", "-e .", "a  # words",
]  # fmt: skip
WRONG = ["numpy==", "foo bar", "a=1", "a>", "a==x y", "a>=1 <2", "a[b", "a==1,2", "a!", "=1", "a==1 b", "a,b"]


@pytest.mark.parametrize("line", RIGHT)
def test_right_lines(line: str) -> None:
    Requirement(line)
    assert trouble(line) == ""


@pytest.mark.parametrize("line", LEFT_TO_THE_INSTALLER)
def test_what_is_more_than_a_requirement_is_left_alone(line: str) -> None:
    assert trouble(line) == ""


@pytest.mark.parametrize("line", WRONG)
def test_wrong_lines(line: str) -> None:
    with pytest.raises(InvalidRequirement):
        Requirement(line)
    assert trouble(line)
