"""What a folder's Python scripts are for, as far as their text tells: what they take, and where they write.

Nothing is run or imported. A guess that is wrong costs an edit of a file that a person reads before it is written.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["prepare", "train", "evaluate", "other"]

DEEPEST = 2
"""Folders below the root in which scripts are looked for."""
MOST_FILES = 2000
LARGEST = 1 << 20

_ROLES: dict[Role, re.Pattern[str]] = {
    "prepare": re.compile(
        r"prepare|preprocess|prepro|download|(make|build|get|gen(erate)?)_?data|fetch|tokeni[sz]e|split|featur"
    ),
    "train": re.compile(r"train|fit|fine_?tune|pretrain|learn"),
    "evaluate": re.compile(r"eval|test_?model|predict|infer|generate|sample|score|report"),
}
_ENTRIES = ("main", "run", "app", "cli", "__main__")
_SKIPPED_FOLDERS = frozenset(
    "tests test docs doc venv env node_modules build dist site-packages notebooks examples example".split()
)
_SKIPPED_FILES = re.compile(r"(setup|conftest|__init__|test_.*|.*_test|noxfile|tasks|fabfile|versioneer|_version)\.py")
_WRITERS = frozenset(
    "save savez savez_compressed savetxt dump to_csv to_parquet to_json to_pickle to_feather savefig save_model "
    "save_file imsave export".split()
)
_MAKERS = frozenset("makedirs mkdir save_pretrained SummaryWriter".split())
"""What is given the name of a folder, and not of a file."""
_METHODS = frozenset("mkdir write_text write_bytes".split())
"""What a path itself has, so that what is given is no path."""
_PLACES = frozenset("path f fp file filename fname path_or_buf save_directory log_dir logdir dir directory out".split())
"""Names of arguments that say where."""
_OUTPUT_OPTION = re.compile(
    r"(out|output|save|checkpoint|ckpt|model|log|result|work|exp)s?([-_]?(dir|path|folder|file))?"
)
_FILE = re.compile(r"\w[\w-]*(\.\w+)+")
_FOLDER = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*/?")


@dataclass(frozen=True, slots=True)
class Script:
    """A Python file that is run: `path` from the root, `outputs` the folders that it seems to write."""

    path: str
    role: Role
    outputs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    """Files that it writes beside itself, in no folder of their own."""
    options: tuple[str, ...] = ()
    """Such as `--epochs`."""
    operands: tuple[str, ...] = ()
    """What it takes without a name, in capitals: what argparse calls them, or `ARGUMENT` where it reads `sys.argv`."""
    about: str = ""
    """The first line of its docstring."""

    @property
    def name(self) -> str:
        """What its workflow is called."""
        stem = Path(self.path).stem
        stem = Path(self.path).parent.name if stem == "__main__" else stem
        return re.sub(r"[^\w.-]", "-", stem).strip("-.") or "run"


def find_scripts(root: Path) -> list[Script]:
    """The scripts below `root`, those that seem to be of use first."""
    trees = {path: tree for path in _python_files(root) if (tree := _parsed(path)) is not None}
    imported = {name for tree in trees.values() for name in _imports(tree)}
    found = [script for path, tree in trees.items() if (script := _read(root, path, tree, imported)) is not None]
    order: dict[Role, int] = {"prepare": 0, "train": 1, "evaluate": 2, "other": 3}
    return sorted(found, key=lambda script: (order[script.role], script.path.count("/"), script.path))


def _python_files(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(
            name
            for name in folders
            if depth < DEEPEST
            and not name.startswith((".", "_"))
            and name.lower() not in _SKIPPED_FOLDERS
            and not os.path.exists(f"{folder}/{name}/pyvenv.cfg")
        )
        for name in sorted(files):
            if name.endswith(".py") and not _SKIPPED_FILES.fullmatch(name):
                seen += 1
                if seen > MOST_FILES:
                    return
                yield Path(folder, name)


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes()) if path.stat().st_size <= LARGEST else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _imports(tree: ast.Module) -> Iterator[str]:
    """The last parts of what is imported, which may be names of files: of `from a.b import c`, both `b` and `c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "").rpartition(".")[2], *(alias.name for alias in node.names))


def _read(root: Path, path: Path, tree: ast.Module, imported: Collection[str]) -> Script | None:
    """The script at `path`; None for what is only imported."""
    role = _role(path.stem)
    # Without a guard, its name says that it is run, or that nothing imports it.
    named = role != "other" or path.stem in _ENTRIES or path.stem not in imported
    if not _has_main(tree) and not (named and _acts(tree)):
        return None
    seen = _Seen()
    seen.visit(tree)
    outputs = tuple(dict.fromkeys(name for text in seen.written if (name := _folder(root, text))))
    loose = tuple(dict.fromkeys(text for text in seen.written if _FILE.fullmatch(text)))
    about = (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")[:100]
    options, operands = tuple(dict.fromkeys(seen.options)), tuple(seen.operands)
    return Script(path.relative_to(root).as_posix(), role, outputs, loose, options, operands, about)


def _role(stem: str) -> Role:
    for role, pattern in _ROLES.items():
        if pattern.search(stem.lower()):
            return role
    return "other"


def _has_main(tree: ast.Module) -> bool:
    """`if __name__ == "__main__":`"""
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        for node in tree.body
    )


def _acts(tree: ast.Module) -> bool:
    """Whether it does something by itself: calls or loops at its top level."""
    return any(
        isinstance(node, (ast.For, ast.While, ast.With))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in tree.body
    )


class _Seen(ast.NodeVisitor):
    """Texts that seem to say where something is written, and the options of argparse or click."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.options: list[str] = []
        self.operands: list[str] = []
        self._names: dict[str, list[str]] = {}
        """Variables → the texts that were assigned to them."""

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name) and (texts := self._texts([node.value])):
                self._names[target.id] = texts
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _called(node)
        method = isinstance(node.func, ast.Attribute)
        if name in ("add_argument", "option"):
            self._option(node)
        elif name == "open":
            if self._opens_for_writing(node, method=method):
                self.written += self._texts(
                    [node.func.value] if isinstance(node.func, ast.Attribute) else node.args[:1]
                )
        elif name in _METHODS and isinstance(node.func, ast.Attribute) and self._texts([node.func.value]):
            # Path("out").mkdir(), (Path("out") / name).write_text(…)
            written = self._texts([node.func.value])
            self.written += self._folders(written) if name in _MAKERS else written
        elif name in _WRITERS or name in _MAKERS:
            places = [keyword.value for keyword in node.keywords if keyword.arg in _PLACES]
            written = self._texts([*node.args, *places])
            self.written += self._folders(written) if name in _MAKERS else written
        self.generic_visit(node)

    def _folders(self, texts: Sequence[str]) -> list[str]:
        return [f"{text.rstrip('/')}/" for text in texts]

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`sys.argv[1]`"""
        of, index = node.value, node.slice
        argv = isinstance(of, ast.Attribute) and of.attr == "argv"
        if argv and isinstance(index, ast.Constant) and isinstance(index.value, int):
            self.operands += ["ARGUMENT"] * (index.value - len(self.operands))
        self.generic_visit(node)

    def _option(self, node: ast.Call) -> None:
        names = self._texts(node.args)
        flags = [text for text in names if text.startswith("--")]
        self.options += flags[:1]
        if _called(node) == "add_argument" and names and not any(text.startswith("-") for text in names):
            self.operands.append(names[0].upper())
        default = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
        if flags and default is not None and _OUTPUT_OPTION.fullmatch(flags[0].lstrip("-").lower()):
            texts = self._texts([default])
            self.written += [
                text if _FILE.fullmatch(text.rpartition("/")[2]) else f"{text.rstrip('/')}/" for text in texts
            ]

    def _opens_for_writing(self, node: ast.Call, *, method: bool) -> bool:
        """By its mode: the second argument of the function, the first of a path's method."""
        modes = [*node.args[0 if method else 1 :][:1]]
        modes += [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
        return any(set(text) & set("wax") and len(text) <= 3 for text in self._texts(modes))

    def _texts(self, nodes: Sequence[ast.expr]) -> list[str]:
        """The beginnings of the texts that expressions are made of: of `Path("a") / name`, `a/`."""
        found: list[str] = []
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.Name):
                found += self._names.get(node.id, [])
            elif isinstance(node, ast.JoinedStr) and node.values:
                first, tail = node.values[0], "".join(self._texts(node.values[1:2]))
                found += [text + tail for text in self._texts([_value(first)])]
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                found += [f"{text.rstrip('/')}/" for text in self._texts([node.left])]
            elif isinstance(node, ast.Call) and _called(node) in ("Path", "PurePath", "str", "join"):
                found += self._joined(node.args)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found += self._texts([node.func.value])
        return found

    def _joined(self, nodes: Sequence[ast.expr]) -> list[str]:
        """`join("a", "b")` is `a/b`, `join("a", name)` is `a/`."""
        found = self._texts(nodes[:1])
        for node in nodes[1:]:
            part = node.value if isinstance(node, ast.Constant) else None
            found = [f"{text.rstrip('/')}/{part if isinstance(part, str) else ''}" for text in found]
            if not isinstance(part, str):
                break
        return found


def _value(node: ast.expr) -> ast.expr:
    """What stands in the braces of a formatted text."""
    return node.value if isinstance(node, ast.FormattedValue) else node


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _folder(root: Path, text: str) -> str:
    """The folder that a path which is written lies in, where it may be an artifact; else nothing."""
    text = text.removeprefix("./")
    if not _FOLDER.fullmatch(text) or ".." in text.split("/"):
        return ""
    first, *below = text.split("/")
    if not below or first in ("src", "tests") or (root / first).is_file():
        return ""  # what has no folder is a file beside the script
    # What holds files already is rather read than written, unless it is called like an output.
    if not _holds_files(root / first) or _OUTPUT_OPTION.fullmatch(first.lower()):
        return first
    second = f"{first}/{below[0]}"
    return second if len(below) > 1 and below[0] and not _holds_files(root / second) else ""


def _holds_files(place: Path) -> bool:
    return place.is_dir() and any(place.iterdir())
