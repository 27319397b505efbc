"""`dstack run PROVIDER …`: a workflow that stands on the command line instead of in a file.

The words become the text of a workflow, one value in a line, so that everything that is said of workflows in files is
said of this one, too; what is wrong with a line is then told of the words that it was made of.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dstack.sdk.provider import CommandLine
from dstack.workflows import options
from dstack.workflows.diagnostics import Diagnostic, Invalid, Report
from dstack.workflows.loading import load
from dstack.workflows.model import Workflows
from dstack.workflows.variables import canonical


@dataclass(frozen=True, slots=True)
class AdHoc:
    """Workflows with the one of the command line among them, and the words that are yet to be read as options."""

    workflows: Workflows
    args: list[str]
    text: _Text

    def told(self, diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
        """Diagnostics of a run, with those about the text as such about the command line."""
        return [self.text.told(diagnostic) for diagnostic in diagnostics]


def expand(workflows: Workflows, provider: str, args: Sequence[str]) -> AdHoc:
    """The workflow that `dstack run PROVIDER ARGS…` stands for; it has the provider's name. Raises Invalid."""
    kind = workflows.providers[provider]
    form = kind.command_line
    if form is None:
        report = Report()
        report.argument(provider, f"`{provider}` runs only workflows of files", f"name one with `provider: {provider}`")
        raise Invalid(report.diagnostics())
    reader = _Reader(form, kind.accepts_args, workflows, list(args))
    reader.read()
    text = _Text(provider, form)
    for key, values in reader.keys.items():
        text.add(key, values)
    if reader.spare is not None:
        report = Report()
        report.argument(reader.spare, f"`{provider}` takes no such argument: `{reader.spare}`", text.usage)
        report.check()
    try:
        loaded = load({text.file: "".join(text.lines)}, workflows.providers)
    except Invalid as error:
        raise Invalid([text.told(diagnostic) for diagnostic in error.diagnostics]) from None
    everything = Workflows(
        [*loaded.values(), *workflows.values()],
        workflows.variables,
        workflows.providers,
        workflows.warnings,
        workflows.own_providers,
        workflows.excludes,
    )
    return AdHoc(everything, reader.rest, text)


class _Text:
    """The text of the workflow, and which words each of its lines was made of."""

    def __init__(self, provider: str, form: CommandLine) -> None:
        # No file that a repository may have.
        self.file = f"dstack run {provider}/.dstack/workflows.yaml"
        self.lines = ["workflows:\n", f"- name: {provider}\n", f"  provider: {provider}\n"]
        self.usage = f"write `dstack run {form.usage}`"
        self._form = form
        self._words = [provider] * len(self.lines)

    def add(self, key: str, values: Sequence[tuple[str, str]]) -> None:
        """A key with its (value, words as typed)."""
        if key in self._form.lists:
            self._line(f"  {key}:\n", values[0][1])
            for value, words in values:
                self._line(f"  - {self._scalar(key, value)}\n", words)
        else:
            value, words = values[-1]
            self._line(f"  {key}: {self._scalar(key, value)}\n", words)

    def told(self, found: Diagnostic) -> Diagnostic:
        if found.file != self.file or found.line is None:
            return found
        # What is missing is told where the workflow begins.
        hint = self.usage if found.line <= 2 else found.hint
        words = self._words[min(found.line, len(self._words)) - 1]
        return Diagnostic(found.severity, None, None, None, found.message, words, hint)

    def _line(self, line: str, words: str) -> None:
        self.lines.append(line)
        self._words.append(words)

    def _scalar(self, key: str, value: str) -> str:
        if key == self._form.first and self._form.split:
            value = shlex.quote(value)
        return json.dumps(value.replace("${{", "$${{"), ensure_ascii=False)


@dataclass(slots=True)
class _Reader:
    """Tells the words that are keys of the workflow from those that any run may have."""

    form: CommandLine
    accepts_args: bool
    workflows: Workflows
    args: list[str]
    keys: dict[str, list[tuple[str, str]]] = field(default_factory=dict[str, list[tuple[str, str]]])
    rest: list[str] = field(default_factory=list[str])
    spare: str | None = None
    """A word that means nothing."""

    def read(self) -> None:
        words = iter(self.args)
        for word in words:
            if word == "--":
                self._after_dashes(list(words))
            elif (option := self._own(word)) is not None:
                value = word[len(option) :].removeprefix("=") if word != option else next(words, None)
                if value is None:
                    report = Report()
                    report.argument(word, f"`{word}` needs a value", f"write `dstack run {self.form.usage}`")
                    report.check()
                    return
                self._key(self.form.options[option], value, word if word != option else f"{word} {value}")
            elif word.startswith("-") and len(word) > 1:
                self._option(word, words)
            elif self.form.first and (self.form.first in self.form.lists or self.form.first not in self.keys):
                self._key(self.form.first, word, word)
            elif self.accepts_args:
                self.rest.append(word)
            else:
                self.spare = self.spare or word

    def _own(self, word: str) -> str | None:
        """The option of this provider that `word` is, perhaps with its value: `-p2`, `--ports=2`."""
        for option in self.form.options:
            if word == option or word.startswith(f"{option}=") or (word.startswith(option) and len(option) == 2):
                return option
        return None

    def _option(self, word: str, words: Iterator[str]) -> None:
        """An option that any run may have, or one of the program."""
        arity = self._arity(word)
        if arity is None and not word.startswith("--") and self.accepts_args and self.form.first not in self.keys:
            # An option of the interpreter, such as `-m`: what follows is its own.
            self._key(self.form.first, word, word)
            self._after_dashes(list(words))
            return
        self.rest.append(word)
        if arity and (value := next(words, None)) is not None:
            self.rest.append(value)

    def _arity(self, word: str) -> int | None:
        """How many words belong to an option beside itself; None for one that dstack does not know."""
        if word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            variable = self.workflows.variables.everywhere.get(canonical(name.rpartition(".")[2]))
            if variable is not None and variable.declaration.type == "bool":
                return 0  # `--flag FILE` and `--flag=no FILE`
            declared = variable is not None or "." in name
            if not declared and name.replace("_", "-") not in options.OPTIONS:
                return None
            return 0 if equals or (name == "interruptible" and not declared) else 1
        name = options.SHORT.get(word[1])
        if name is None:
            return None
        return 0 if name == "interruptible" or len(word) > 2 else 1

    def _after_dashes(self, words: list[str]) -> None:
        if words and self.form.first and self.form.first not in self.keys:
            self._key(self.form.first, words[0], words[0])
            words = words[1:]
        if words:
            self.rest += ["--", *words]

    def _key(self, key: str, value: str, words: str) -> None:
        self.keys.setdefault(key, []).append((value, words))
