"""The command line. `main` is the program `dstack`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code. Nothing that goes wrong reaches a person as a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if None in (sys.stdout, sys.stderr):
        _open_streams()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        # Served from generated text: help is asked for often, and click alone would cost thrice as much.
        from dstack.cli.helptext import HELP

        return _write(HELP)
    if arguments == ["--version"]:
        import dstack

        return _write(f"dstack {dstack.__version__}\n")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        # A letter that the terminal does not know, or a byte of a file's name, is shown as its code.
        reconfigure(errors="backslashreplace")
    try:
        if arguments[0] == "__complete":
            from dstack.cli.complete import complete

            return complete(arguments[1:])
        if arguments[0] == "run":
            from dstack.cli.run import run

            return run(arguments[1:])
        from dstack.cli.group import dispatch

        return dispatch(arguments)
    except BaseException as error:  # noqa: BLE001 - the one place where everything ends
        from dstack.cli.errors import report

        return report(error)


def _open_streams() -> None:
    """What was closed swallows what is written: the next file that is opened must not take its place."""
    import os

    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _write(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        from dstack.cli.errors import report

        return report(error)
    return 0
