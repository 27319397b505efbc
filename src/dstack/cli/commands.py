"""The commands there are, in the order of the help. The help's text and the lazy loading both come from this table."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str, str]] = {
    # name: (module, function, what it does)
    "init": ("dstack.cli.init", "init", "Propose the first workflows of a project."),
    "run": ("dstack.cli.group", "run_command", "Run a workflow and follow its output."),
    "runs": ("dstack.cli.runs", "runs", "List runs, or show one with its jobs."),
    "logs": ("dstack.cli.logs", "logs", "Show a run's output from its first line."),
    "stop": ("dstack.cli.stop", "stop", "Stop a run."),
    "resume": ("dstack.cli.resume", "resume", "Go on where a run ended, as a new run."),
    "restart": ("dstack.cli.restart", "restart", "Run a job again and what comes after it, as a new run."),
    "explain": ("dstack.cli.explain", "explain", "Say why a run waits, or why it failed."),
    "metrics": ("dstack.cli.metrics", "metrics", "Show what a run's jobs have logged: loss, accuracy, …"),
    "compare": ("dstack.cli.compare", "compare", "Show what sets runs apart."),
    "artifacts": ("dstack.cli.artifacts", "artifacts", "List, read, download and upload what runs save."),
    "lineage": ("dstack.cli.lineage", "lineage", "Show where a run's inputs come from, and who used its artifacts."),
    "open": ("dstack.cli.open", "open_run", "Open the folder with a run's results."),
    "tag": ("dstack.cli.tag", "tag", "Give a run's artifacts a name to refer to them by."),
    "untag": ("dstack.cli.untag", "untag", "Remove a tag, or all tags of a run."),
    "tags": ("dstack.cli.tags", "tags", "List, set and remove tags."),
    "secrets": ("dstack.cli.secrets", "secrets", "Set, list and delete values that never show."),
    "workflows": ("dstack.cli.workflows", "workflows", "List the workflows of this repository."),
    "validate": ("dstack.cli.validate", "validate", "Check the workflow files of this repository."),
    "schema": ("dstack.cli.schema", "schema", "Print the JSON Schema of the workflow files, for editors."),
    "rm": ("dstack.cli.rm", "rm", "Delete runs with their logs."),
    "prune": ("dstack.cli.prune", "prune", "List the finished runs without a tag, and delete them."),
    "du": ("dstack.cli.du", "du", "Show what takes space."),
    "gc": ("dstack.cli.gc", "gc", "Free what nothing refers to any more."),
    "retention": ("dstack.cli.retention", "retention", "Show and set how long snapshots and runs are kept."),
    "verify": ("dstack.cli.verify", "verify", "Check that what was saved is all there and right."),
    "config": ("dstack.cli.config", "config", "Set the server that commands use, as named profiles."),
    "doctor": ("dstack.cli.doctor", "doctor", "Look for what keeps runs from working here."),
    "completion": ("dstack.cli.completion", "completion", "Make a shell complete what you type."),
    "server": ("dstack.cli.server", "server", "Start, show or stop the local server."),
    "runners": ("dstack.cli.runners", "runners", "List the runners: what they have, and how many jobs they hold."),
    "runner": ("dstack.cli.runner", "runner", "Run jobs on this machine for a server."),
}
ALIASES = {"ps": "runs", "status": "runs"}
FORMER = {
    "ls": "artifacts list",
    "pull": "artifacts download",
    "push": "artifacts upload",
    "cp": "artifacts cp",
    "login": "config",
    "logout": "config delete",
    "token": "config",
}
"""What earlier versions had under another name, and where it is now."""
EPILOGUE = "Help on one command: dstack COMMAND --help"


def summary() -> str:
    """The text of `dstack --help`; `scripts/generate_help.py` stores it in `helptext.py`."""
    shown = {name: text for name, (_, _, text) in COMMANDS.items()}
    for name in dict.fromkeys(ALIASES.values()):
        shown[name] += f" Also: {', '.join(alias for alias, of in ALIASES.items() if of == name)}."
    width = max(map(len, shown))
    lines = "".join(f"  {name.ljust(width)}  {text}\n" for name, text in shown.items())
    return (
        "Usage: dstack COMMAND [ARGUMENTS]...\n\n"
        "  CI/CD for training models: runs the workflows of .dstack/workflows.yaml,\n"
        "  saves their artifacts while they run, and reuses them by tag.\n\n"
        f"Commands:\n{lines}\n"
        "Options:\n"
        "  --version   Show the version.\n"
        "  -h, --help  Show this text.\n\n"
        f"{EPILOGUE}\n"
    )
