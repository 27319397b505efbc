"""The options of `dstack run`. Its own are a short, fixed list; everything else goes to the server as it was typed.

click is not used for this: it would read `-data x` as `-d -a…`, and could not leave what it does not know in place.
"""

from __future__ import annotations

from dstack.cli.errors import UserError, near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

FLAGS = {
    "-d": "detach",
    "--detach": "detach",
    "--plan": "plan",
    "--json": "json",
    "-y": "yes",
    "--yes": "yes",
    "--pull": "pull",
    "-h": "help",
    "--help": "help",
}
WITH_PULL = {"-f": "force", "--force": "force"}
"""Read as ours beside `--pull` only: many programs have an option of that name."""
VALUES = {
    "-t": "tag",
    "--tag": "tag",
    "--repo": "repo",
    "-e": "env",
    "--env": "env",
    "--env-file": "env-file",
}
FOLLOW = ("-f", "--follow")
"""What the dstack of 2022 took in order to follow a run."""
LATER = ("--yes", "--pull", "--force", "--env", "--env-file")
"""Options that came after the first version: behind NAME they give way to a declared variable of that name."""


class RunOptions:
    """What `dstack run` was asked. `arguments` is what stood after the workflow's name, without our own options."""

    def __init__(self) -> None:
        self.workflow: str | None = None
        self.arguments: list[str] = []
        self.tags: list[str] = []
        self.repo: str | None = None
        self.env: list[str] = []
        """`NAME` or `NAME=VALUE`: kept out of `arguments`, which are stored and shown."""
        self.env_files: list[str] = []
        self.flags: set[str] = set()
        self.later: list[str] = []
        """Those of LATER that stood behind NAME."""

    @property
    def detach(self) -> bool:
        return "detach" in self.flags

    @property
    def plan(self) -> bool:
        return "plan" in self.flags

    @property
    def json(self) -> bool:
        return "json" in self.flags

    @property
    def yes(self) -> bool:
        return "yes" in self.flags

    @property
    def pull(self) -> bool:
        return "pull" in self.flags

    @property
    def force(self) -> bool:
        return "force" in self.flags

    @property
    def help(self) -> bool:
        return "help" in self.flags


def parse(words: list[str], declared: Container[str] = ()) -> RunOptions:
    """Read the words after `dstack run`. Raises UserError.

    An own option may stand before or after the workflow's name. After `--` every word is the workflow's, the `--`
    itself included: the server has to know where its own reading ends. `declared`: those of LATER that are variables.
    """
    options = RunOptions()
    own = words[: words.index("--")] if "--" in words else words
    flags = {**FLAGS, **WITH_PULL} if "--pull" in own and "--pull" not in declared else FLAGS
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            if options.workflow is None:
                raise UserError("`--` stands before the name of a workflow", "dstack run NAME -- ARGUMENTS")
            options.arguments += words[at - 1 :]
            break
        name, separator, value = word.partition("=")
        if options.workflow is not None and name in LATER:
            options.later.append(name)
            if name in declared:
                options.arguments.append(word)
                continue
        if word in flags:
            options.flags.add(flags[word])
        elif name in VALUES and (not separator or name.startswith("--")):
            if not separator:
                if at == len(words):
                    raise UserError(f"option `{name}` needs a value")
                value = words[at]
                at += 1
            _set(options, VALUES[name], value)
        elif _is_joined_env(word):
            options.env.append(word[2:].removeprefix("="))
        elif options.workflow is not None:
            options.arguments.append(word)
        elif word.startswith("-") and len(word) > 1:
            hint = near(word, [*FLAGS, *VALUES], cutoff=0.75) or "a workflow's own options stand after its name"
            if word in FOLLOW:
                hint = "leave it out: every run is followed, and `-d` submits it and returns"
            raise UserError(f"dstack run has no option `{word}`", hint)
        else:
            options.workflow = word
    if options.pull and (options.detach or options.plan):
        raise UserError(
            f"`--pull` waits for the end of the run, and `--{'plan' if options.plan else 'detach'}` does not",
            "fetch them later with: dstack artifacts download RUN",
        )
    return options


def _is_joined_env(word: str) -> bool:
    """Whether it is `-eNAME` or `-eNAME=VALUE`."""
    return word.startswith("-e") and word[2:].removeprefix("=").partition("=")[0].isidentifier()


def _set(options: RunOptions, name: str, value: str) -> None:
    if not value:
        raise UserError(f"option `--{name}` has an empty value")
    if name == "tag":
        options.tags.append(value)
    elif name == "env":
        options.env.append(value)
    elif name == "env-file":
        options.env_files.append(value)
    else:
        options.repo = value
