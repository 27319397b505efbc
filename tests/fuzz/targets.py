"""What `scripts/fuzz` runs: each target takes any bytes, and nothing but a diagnostic may come of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")  # `scripts/fuzz` installs it, for nothing else

with atheris.instrument_imports(include=["dstack.workflows", "dstack.sdk", "dstack.domain.rules"]):
    from dstack.workflows import expressions
    from tests.property.workflows.test_never_crashes import FILES, plans_or_says

SEEDS = Path(".fuzz/seeds")


def load(data: bytes) -> None:
    """A workflows file, and after a zero byte a variables file."""
    workflows, _, variables = data.partition(b"\0")
    files = {**FILES, ".dstack/workflows.yaml": workflows.decode(errors="surrogateescape")}
    if variables:
        files[".dstack/variables.yaml"] = variables.decode(errors="surrogateescape")
    plans_or_says(files, "train")


def read_expressions(data: bytes) -> None:
    """A value, read as a template and as a condition."""
    text = data.decode(errors="surrogateescape")
    for read in (expressions.parse, expressions.condition):
        try:
            read(text)
        except expressions.BadExpression:
            pass  # a sentence for people


def options(data: bytes) -> None:
    """Words of the command line, with zero bytes between them."""
    words = [word.decode(errors="surrogateescape") for word in data.split(b"\0")]
    plans_or_says(FILES, words[0], tuple(words[1:]))


TARGETS: dict[str, Callable[[bytes], None]] = {"load": load, "expressions": read_expressions, "options": options}


def seeds(target: str) -> Iterable[bytes]:
    """What right and wrong input looks like."""
    # Not at the top: what is imported before atheris looks is not instrumented.
    from scripts.generate_messages import PAGE, cases

    from tests.support.yamls import repositories

    if target == "load":
        for _, texts in repositories():
            yield texts.get(".dstack/workflows.yaml", "").encode()
        for case in cases(PAGE.read_text(encoding="utf-8")):
            yield case.files[".dstack/workflows.yaml"].encode()
        yield b"\0".join(FILES[f".dstack/{name}.yaml"].encode() for name in ("workflows", "variables"))
    elif target == "options":
        yield from (" ".join(case.arguments).replace(" ", "\0").encode() for case in cases(PAGE.read_text("utf-8")))
        yield b"train\0--seed\0003\0-e\0A=b\0--prepare.rows=7\0--\0x"
    else:
        yield from (
            b"a ${{ seed }} $${{ x",
            b"success() and seed == 2 or not (failed() or 'x' != y)",
            b"${{ run.name }}",
        )


def main() -> None:
    target = sys.argv.pop(1)
    for number, seed in enumerate(seeds(target)):
        (SEEDS / target / f"{number:03}").write_bytes(seed)
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
