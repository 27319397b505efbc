"""`.dstack/variables.yaml`: values for `${{ name }}`, for every workflow (`global`) or for one.

Names of variables read dashes and underscores alike, as options of the command line do. A value may be declared rather
than written (`declarations`): a plain value of a workflow's own section is held against the declaration in `global`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dstack.sdk.scalars import Scalar, text_of
from dstack.workflows import declarations
from dstack.workflows.declarations import Declaration, WrongValue
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode

GLOBAL = "global"
PLAIN = Declaration()
"""What is declared of a value that is written plainly: nothing."""
MAX_VARIABLES = 1000
"""In one section."""
COMMAND_LINE = "command line"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# What programs do not work without; every variable is also an environment variable of the same name in capitals.
_RESERVED = frozenset(("PATH", "HOME", "USER", "SHELL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"))
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Variable:
    """A value and where it comes from: `.dstack/variables.yaml:3` or `command line`.

    `given` is False where the file declares it without a default: until the command line gives one, there is none.
    """

    name: str
    value: Scalar
    source: str
    declaration: Declaration = PLAIN
    given: bool = True
    at: tuple[int, int] = (1, 1)
    """Where the file has it."""


@dataclass(frozen=True, slots=True)
class Variables:
    """What the file at `source` declares, by section; the keys within are canonical names."""

    source: Source | None = None

    everywhere: Mapping[str, Variable] = field(default_factory=dict[str, Variable])
    sections: Mapping[str, Mapping[str, Variable]] = field(default_factory=dict[str, Mapping[str, Variable]])

    def of(self, workflow: str) -> Mapping[str, Variable]:
        """The variables that `workflow` sees: its own over the global ones."""
        own = self.sections.get(workflow)
        return {**self.everywhere, **own} if own else self.everywhere


def canonical(name: str) -> str:
    """`batch-size` and `batch_size` are one name."""
    return name.replace("-", "_")


def environment(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Variables as a job sees them: the name in capitals, the value as it was written."""
    return {environment_name(item.name): text_of(item.value) for item in variables.values() if item.given}


def environment_name(name: str) -> str:
    return _NOT_ALPHANUMERIC.sub("_", name).upper()


def read(source: Source, root: Node | None, report: Report) -> Variables:
    """The variables of the file whose tree is `root`; what cannot be read is reported and left out."""
    if root is None or (isinstance(root, ScalarNode) and root.data is None):
        return Variables()
    if not isinstance(root, MapNode) or "variables" not in root.entries:
        report.error(source, root.at, "`variables:` is missing", "start with `variables:`, then `global:` under it")
        return Variables()
    for name, key in root.keys.items():
        if name != "variables":
            report.error(source, key.at, f"unknown key `{name}`", "the file has one key, `variables`")
    sections = root.entries["variables"]
    if isinstance(sections, ScalarNode) and sections.data is None:
        return Variables()
    if not isinstance(sections, MapNode):
        report.error(source, sections.at, "`variables` must hold sections", "write `global:` or a workflow's name")
        return Variables()
    found = {name: _section(source, name, node, report) for name, node in sections.entries.items()}
    everywhere = found.pop(GLOBAL, {})
    own = {name: _declared(source, section, everywhere, report) for name, section in found.items()}
    return Variables(source, everywhere, own)


def check_sections(source: Source, root: Node | None, workflows: Mapping[str, object], report: Report) -> None:
    """Warn about sections that no workflow reads."""
    sections = root.entries.get("variables") if isinstance(root, MapNode) else None
    for name, key in sections.keys.items() if isinstance(sections, MapNode) else ():
        if name != GLOBAL and name not in workflows:
            hint = report.near(name, [GLOBAL, *workflows]) or "a section is `global` or the name of a workflow"
            report.warning(source, key.at, f"no workflow is named `{name}`: its variables are not used", hint)


def _section(source: Source, section: str, node: Node, report: Report) -> dict[str, Variable]:
    if isinstance(node, ScalarNode) and node.data is None:
        return {}
    if not isinstance(node, MapNode):
        report.error(source, node.at, f"the section `{section}` must hold `name: value` lines")
        return {}
    if len(node.entries) > MAX_VARIABLES:
        message = f"the section `{section}` has more than {MAX_VARIABLES:,} variables"
        report.error(source, node.at, message, "each job gets them all in its environment; keep large data in a file")
        return {}
    variables: dict[str, Variable] = {}
    seen: dict[str, str] = {}
    for name, value in node.entries.items():
        at = node.keys[name].at
        if _NAME.fullmatch(name) is None:
            hint = "use letters, digits, `-` and `_`, and start with a letter"
            if not name.isascii():
                hint = "use only the letters a to z (it names an environment variable, too), digits, `-` and `_`"
            report.error(source, at, f"`{name}` cannot name a variable", hint)
        elif isinstance(value, ListNode):
            hint = "declare what it may be with `{choices: […]}`"
            report.error(source, value.at, f"the variable `{name}` must be a single value, not a list", hint)
        elif isinstance(value, ScalarNode) and value.template is not None:
            hint = "expressions are filled in within workflows; write `$${{` there for a literal `${{`"
            report.error(source, value.at, f"the variable `{name}` holds an expression", hint)
        elif isinstance(value, ScalarNode) and "\0" in value.text:
            report.error(source, value.at, f"the variable `{name}` must not hold a zero byte")
        elif (other := seen.setdefault(environment_name(name), name)) != name:
            message = f"`{name}` and `{other}` are the same to a job: {environment_name(name)}"
            report.error(source, at, message, "rename one of them")
        else:
            if environment_name(name) in _RESERVED:
                message = f"the variable `{name}` takes the place of {environment_name(name)} in every job"
                report.warning(source, at, message, "rename it")
            if (variable := _variable(source, name, value, report)) is not None:
                variables[canonical(name)] = variable
    return variables


def _variable(source: Source, name: str, node: Node, report: Report) -> Variable | None:
    """The variable whose value, or declaration, is `node`; None after reporting what is wrong with it."""
    where = f"{source.file}:{node.line}"
    if not isinstance(node, MapNode):
        return Variable(name, node.data, where, at=node.at)
    declared = declarations.read(source, name, node, report)
    if declared is None:
        return None
    return Variable(name, declared.default, where, declared.declaration, declared.has_default, node.at)


def _declared(
    source: Source, section: Mapping[str, Variable], everywhere: Mapping[str, Variable], report: Report
) -> dict[str, Variable]:
    """A workflow's own variables, plain values held against what `global` declares of their names."""
    found = dict(section)
    for key, variable in section.items():
        general = everywhere[key].declaration if key in everywhere else PLAIN
        if variable.declaration != PLAIN or general == PLAIN:
            continue
        try:
            found[key] = replace(variable, value=general.read(variable.value), declaration=general)
        except WrongValue as error:
            hint = f"`global` declares it in line {everywhere[key].at[0]}"
            report.error(source, variable.at, f"`{variable.name}` {error}", hint)
    return found
