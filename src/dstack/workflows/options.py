"""The words after `dstack run NAME`: values of variables, options that override the file, arguments of the program.

An option is read as, in this order: a variable that the root workflow or `global` declares (`--prepare.seed 3` reaches
the section of another workflow of the run); a name used in a `${{ }}` of the run; an option that overrides a key of
the root workflow, if its provider has that key; else an argument of the provider's program where it takes any. After
`--` everything is the program's. What the command line keeps for itself never gets here (`dstack.cli.options`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from dstack.sdk.provider import CALLERS, Provider, secret_marker
from dstack.sdk.scalars import parse_scalar, text_of
from dstack.workflows.checking import Override
from dstack.workflows.declarations import TRUTHS, WrongValue
from dstack.workflows.dependencies import KEYS
from dstack.workflows.diagnostics import Report
from dstack.workflows.model import Workflow, Workflows
from dstack.workflows.variables import COMMAND_LINE, GLOBAL, Variable, canonical

# Options → the key they override. Forms as in 2022, but for `-e K`: it takes the value that the caller's shell has
# (unset is an error), and `-e K=` sets an empty one.
OPTIONS: dict[str, tuple[str, ...]] = {
    "requirements": ("requirements",),
    "env": ("environment",),
    "artifact": ("artifacts",),
    "working-dir": ("working_dir",),
    "interruptible": ("resources", "interruptible"),
    "cpu": ("resources", "cpu"),
    "memory": ("resources", "memory"),
    "gpu": ("resources", "gpu", "count"),
    "gpu-name": ("resources", "gpu", "name"),
    "gpu-memory": ("resources", "gpu", "memory"),
    "shm-size": ("resources", "shm_size"),
    "dep": ("deps",),
    "deps": ("deps",),
    "depends-on": ("depends-on",),
    "ports": ("ports",),
    "nnodes": ("nodes",),
    "logdir": ("logdir",),
}
LISTS = {"artifact": "artifacts", "dep": "deps", "deps": "deps", "depends-on": "depends-on"}
"""Options that may be repeated → the list that they replace."""
_FOLLOW = ("-f", "--follow")
"""What was typed in 2022 in order to follow a run."""
SHORT = {"r": "requirements", "e": "env", "a": "artifact", "i": "interruptible", "p": "ports"}


@dataclass(frozen=True, slots=True)
class Option:
    """An option that overrides a key, as typed."""

    name: str
    value: str
    argument: str


@dataclass(slots=True)
class Choices:
    """What the words of the command line mean."""

    everywhere: dict[str, Variable] = field(default_factory=dict[str, Variable])
    """New values of global variables."""
    sections: dict[str, dict[str, Variable]] = field(default_factory=dict[str, dict[str, Variable]])
    """Values by workflow."""
    options: list[Option] = field(default_factory=list[Option])
    """For the root workflow."""
    args: list[str] = field(default_factory=list[str])
    """For the root workflow's program."""

    def dependencies(self) -> dict[str, list[tuple[str, str]]]:
        """What options say in place of the root workflow's `deps` and `depends-on`: (value, argument) by key."""
        found: dict[str, list[tuple[str, str]]] = {}
        for option in self.options:
            key = LISTS.get(option.name)
            if key in KEYS:
                found.setdefault(key, []).append((option.value, option.argument))
        return found


def read(
    args: Sequence[str], root: Workflow, workflows: Workflows, members: Sequence[Workflow], report: Report
) -> Choices:
    """The meaning of `args` for a run of `members`, of which `root` is the one named."""
    reader = _Reader(list(args), root, workflows, members, report)
    reader.read()
    return reader.choices


def override(data: dict[str, Any], options: Sequence[Option]) -> tuple[dict[str, Any], list[Override]]:
    """`data` with the options in place of the file's values, and where each went."""
    result = dict(data)
    overrides: list[Override] = []
    fresh: set[str] = set()
    for option in options:
        path = OPTIONS[option.name]
        if option.name == "env":
            path = _set_environment(result, option.value)
        elif (key := LISTS.get(option.name)) is not None:
            kept: list[str] = result[key] if key in fresh else []
            result[key] = [*kept, option.value]
            path = (key, len(kept))
        elif path[0] == "resources":
            _set_resource(result, path[1:], option.value)
        else:
            result[path[0]] = option.value
        fresh.add(LISTS.get(option.name, option.name))
        overrides.append(Override(path, option.argument))
    return result, overrides


def available(provider: type[Provider] | None) -> list[str]:
    """The options that workflows of `provider` take: those of which it has the key."""
    fields = getattr(provider.Config, "model_fields", None) if provider is not None else None
    if fields is None:
        return list(OPTIONS)
    keys = {field.alias or name for name, field in fields.items()}
    return [name for name, path in OPTIONS.items() if path[0] in keys]


def describe(provider: type[Provider]) -> list[tuple[str, str]]:
    """The options that workflows of `provider` take, as typed, each with what it does: for people."""
    known = available(provider)
    short = {name: letter for letter, name in SHORT.items()}
    return [
        (f"-{short[name]}, --{name}{value}" if name in short else f"    --{name}{value}", about)
        for name, (value, about) in _ABOUT.items()
        if name in known
    ]


_ABOUT = {
    "requirements": (" FILE", "install these Python packages"),
    "env": (" NAME[=VALUE]", "set an environment variable; without =VALUE, to what your shell has; repeatable"),
    "artifact": (" FOLDER", "keep this folder, instead of those of the file; repeatable"),
    "working-dir": (" FOLDER", "start in this folder"),
    "dep": (" NAME", "reuse this (:TAG, NAME, NAME:TAG), instead of the file's `deps`; repeatable"),
    "depends-on": (" NAME", "run this first, instead of the file's `depends-on`; repeatable"),
    "ports": (" N", "give it so many network ports"),
    "nnodes": (" N", "run on so many machines"),
    "logdir": (" FOLDER", "the folder of the logs"),
    "cpu": (" N", "ask for so many processors"),
    "memory": (" SIZE", "ask for so much memory"),
    "gpu": (" N", "ask for so many GPUs"),
    "gpu-name": (" NAME", "ask for GPUs of this name"),
    "gpu-memory": (" SIZE", "ask for GPUs with so much memory"),
    "shm-size": (" SIZE", "ask for so much shared memory"),
    "interruptible": ("", "a machine that may be taken away is good enough"),
}


def _set_environment(data: dict[str, Any], text: str) -> tuple[str | int, ...]:
    key = "env" if data.get("env") is not None and data.get("environment") is None else "environment"
    value = data.get(key)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        data[key] = [*items, text]
        return key, len(items)
    name, equals, content = text.partition("=")
    if not equals:
        content = secret_marker(f"{CALLERS}{name}")
    data[key] = {**cast("dict[str, Any]", value or {}), name: content}
    return key, name


def _set_resource(data: dict[str, Any], path: tuple[str, ...], text: str) -> None:
    resources: dict[str, Any] = dict(data.get("resources") or {})
    if path[0] != "gpu":
        resources[path[0]] = parse_scalar(text)
    else:
        named = next((key for key in resources if key.endswith("/gpu")), None)
        gpu = resources.get("gpu")
        if named is not None:
            gpu = {"name": named[: -len("/gpu")], "count": resources.pop(named)}
        elif not isinstance(gpu, dict):
            gpu = {} if gpu is None else {"count": gpu}
        resources["gpu"] = {**cast("dict[str, Any]", gpu), path[1]: parse_scalar(text)}
    data["resources"] = resources


def _typed(word: str, given: str | None, value: str) -> str:
    """An option and its value as they were typed."""
    return word if given is not None else f"{word} {value}"


class _Reader:
    def __init__(
        self, args: list[str], root: Workflow, workflows: Workflows, members: Sequence[Workflow], report: Report
    ) -> None:
        self.args = args
        self.next = 0
        self.root = root
        self.workflows = workflows
        self.members = {member.name: member for member in members}
        self.report = report
        self.choices = Choices()
        self.used = {name for member in members for name in member.uses if "." not in name}
        provider = workflows.providers.get(root.provider)
        self.accepts_args = "run.args" in root.uses or (provider is not None and provider.accepts_args)
        self.options = available(provider)

    def read(self) -> None:
        while self.next < len(self.args):
            word = self.args[self.next]
            self.next += 1
            if word == "--":
                self._rest(self.args[self.next :])
                return
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and SHORT.get(word[1:2]) in self.options:
                self._short(word)
            else:
                self._program(word)

    def _long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        given = value if equals else None
        section, dot, variable = name.rpartition(".")
        if dot and (section in self.workflows or section == GLOBAL):
            self._sectioned(word, section, variable, given)
        elif (places := self._declared(canonical(name)) or self._users(canonical(name))) is not None:
            if (typed := self._value(word, given, flag=self._is_flag(name, places))) is not None:
                self._assign(_typed(word, given, typed), name, typed, places)
        elif name.replace("_", "-") in self.options:
            self._option(name.replace("_", "-"), word, given)
        else:
            self._program(word)

    def _short(self, word: str) -> None:
        name = SHORT[word[1]]
        if name == "interruptible" and len(word) > 2:
            self._program(word)
        else:
            self._option(name, word, word[2:].removeprefix("=") if len(word) > 2 else None)

    def _declared(self, name: str) -> list[str] | None:
        """Where the name's variable is declared, as the root workflow sees it, and who else would lack it."""
        declared = self.workflows.variables
        if name in declared.sections.get(self.root.name, {}):
            lacking = [
                member.name
                for member in self.members.values()
                if name in member.uses and name not in declared.of(member.name)
            ]
            return [self.root.name, *lacking]
        return [GLOBAL] if name in declared.everywhere else None

    def _users(self, name: str) -> list[str] | None:
        if name not in self.used:
            return None
        return [member.name for member in self.members.values() if name in member.uses]

    def _sectioned(self, word: str, section: str, variable: str, given: str | None) -> None:
        """`--prepare.seed 3`."""
        declared = self.workflows.variables
        known: Collection[str]
        if section == GLOBAL:
            known = declared.everywhere
        elif section in self.members:
            known = {*declared.of(section), *self.members[section].uses}
        else:
            self.report.argument(word, f"the workflow `{section}` is not part of this run", "remove the option")
            self._skip_value(word)
            return
        typed = self._value(word, given, flag=self._is_flag(variable, [section]))
        if canonical(variable) not in known:
            hint = self.report.near(f"{section}.{variable}", [f"{section}.{name}" for name in known])
            self.report.argument(word, f"`{section}` has no variable `{variable}`", hint)
        elif typed is not None:
            self._assign(_typed(word, given, typed), variable, typed, [section])

    def _is_flag(self, name: str, places: list[str]) -> bool:
        declared = [self.workflows.variables.of(place).get(canonical(name)) for place in places]
        return any(variable is not None and variable.declaration.type == "bool" for variable in declared)

    def _assign(self, argument: str, name: str, text: str, places: list[str]) -> None:
        # `--name=` is the empty text, not null.
        plain = parse_scalar(text) if text else ""
        key = canonical(name)
        for place in places:
            target = self.choices.everywhere if place == GLOBAL else self.choices.sections.setdefault(place, {})
            declared = self.workflows.variables.of(place).get(key)
            if declared is None:
                target[key] = Variable(name, plain, COMMAND_LINE)
                continue
            try:
                value = declared.declaration.read(text if declared.declaration.type is not None else plain)
            except WrongValue as error:
                choices = [text_of(choice) for choice in declared.declaration.choices]
                hint = self.report.near(text, choices) or f"it is declared in {declared.source}"
                self.report.argument(argument, f"`{declared.name}` {error}", hint)
                value = plain
            target[key] = replace(declared, value=value, source=COMMAND_LINE, given=True)

    def _option(self, name: str, word: str, given: str | None) -> None:
        if name == "interruptible":
            self.choices.options.append(Option(name, "true" if given is None else given, word))
        elif (value := self._value(word, given)) is not None:
            self.choices.options.append(Option(name, value, _typed(word, given, value)))

    def _value(self, word: str, given: str | None, *, flag: bool = False) -> str | None:
        """The value after `=` or in the next word; None after reporting that there is none.

        A `flag` alone is true, and takes only a word that says true or false.
        """
        if given is not None:
            return given
        if flag and (self.next == len(self.args) or self.args[self.next].lower() not in TRUTHS):
            return "true"
        if self.next == len(self.args) or self.args[self.next].startswith("--"):
            self.report.argument(word, f"`{word}` needs a value", f"write `{word} VALUE` or `{word}=VALUE`")
            return None
        self.next += 1
        return self.args[self.next - 1]

    def _skip_value(self, word: str) -> None:
        """Do not report what seems to be the value of an option that was reported."""
        if "=" not in word and self.next < len(self.args) and not self.args[self.next].startswith("-"):
            self.next += 1

    def _rest(self, words: list[str]) -> None:
        """What follows `--`, so that nothing of it is doubtful."""
        if self.accepts_args:
            self.choices.args += words
            return
        for word in words:
            self._program(word)

    def _program(self, word: str) -> None:
        """A word that is not dstack's."""
        name = word.partition("=")[0]
        if self.accepts_args:
            # Most of what goes to a program is meant for it: only what is nearly one of ours is doubtful.
            known = [option[2:] for option in self._known()] if name.startswith("--") else []
            if near := self._of_another(name) or (self.report.nearest(name[2:], known, cutoff=0.8) if known else ""):
                message = f"`{word}` goes to the program of `{self.root.name}`"
                self.report.argument(word, message, f"did you mean `--{near}`?", "warning")
            elif word in self.workflows:
                message = f"`{word}` is a workflow, and here an argument for the program of `{self.root.name}`"
                hint = "a run begins with one workflow; what it needs is named by its `depends-on`"
                self.report.argument(word, message, hint, "warning")
            self.choices.args.append(word)
            return
        near = ""
        if name.startswith("--"):
            other = self._of_another(name)
            near = f"--{other}" if other else self.report.nearest(name, list(self._known()))
        if word.startswith("-"):
            self._skip_value(word)
            hint = f"did you mean `{near}`?" if near else "declare it in .dstack/variables.yaml to use it as a variable"
            if name in _FOLLOW:
                hint = "leave it out: every run is followed, and `-d` submits it and returns"
            self.report.argument(word, f"`{self.root.name}` has no option `{word.partition('=')[0]}`", hint)
        else:
            hint = "use `${{ run.args }}` in the workflow to pass arguments on"
            self.report.argument(word, f"`{self.root.name}` takes no arguments, and got `{word}`", hint)

    def _of_another(self, option: str) -> str:
        """The variable of a workflow that this run needs, which an option names without that workflow."""
        name = canonical(option[2:]) if option.startswith("--") else ""
        for member in self.members.values():
            variable = self.workflows.variables.sections.get(member.name, {}).get(name)
            if variable is not None and member is not self.root:
                return f"{member.name}.{variable.name}"
        return ""

    def _known(self) -> Iterator[str]:
        """Every option that would be understood."""
        variables = self.workflows.variables
        yield from (f"--{variable.name}" for variable in variables.of(self.root.name).values())
        yield from (f"--{name}" for name in self.used)
        yield from (f"--{name}" for name in self.options)
