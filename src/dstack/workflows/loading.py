"""The files of `.dstack` → checked workflows, or everything that is wrong with them."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dstack.sdk.provider import Provider
from dstack.sdk.scalars import text_of
from dstack.workflows import braces, collector, dependencies, folded, patterns, secrets, variables
from dstack.workflows.aliases import Uses
from dstack.workflows.binding import RUN_NAMES, Budget, Filled, Scope, fill, names_used
from dstack.workflows.checking import Subject, check
from dstack.workflows.composing import Allowance, compose
from dstack.workflows.dependencies import MAX_NAME, WORKFLOW_NAME, Dependency
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.model import Workflow, Workflows
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode, expression_position
from dstack.workflows.provider_names import ProviderNames
from dstack.workflows.variables import Variables, canonical

MAX_FILES = 10_000
"""Files that are read together, also those that are included."""

_SUFFIXES = (".yaml", ".yml")
_ROOT_KEYS = ("workflows", "include", "code")
_MOST_INCLUDING = 50
_ANCHORS = "x-"
"""Root keys that begin so hold what anchors name, as in files of docker compose."""


def load(files: Mapping[str, str], providers: Mapping[str, type[Provider]], *, required: bool = True) -> Workflows:
    """The workflows of `files` (paths within the repository → texts); raises Invalid with all that is wrong.

    Reads `.dstack/workflows.yaml`, every YAML file of `.dstack/workflows/`, what they `include`,
    `.dstack/variables.yaml` and `.dstack/providers.yaml`. Unless `required`, there need be no workflow: a provider can
    run without one.
    """
    with collector.paused():
        return _load(files, providers, required)


def _load(files: Mapping[str, str], providers: Mapping[str, type[Provider]], required: bool) -> Workflows:
    report = Report()
    if len(files) > MAX_FILES:
        message = f"there are more than {MAX_FILES:,} YAML files in `.dstack`"
        report.argument("", message, "remove what is not needed; one file may hold many workflows")
        report.check()
    loader = _Loader(files, providers, report)
    workflow_files = [path for path in sorted(files, key=_rank) if _is_workflows(path)]
    if not workflow_files and required:
        report.argument("", "there is no `.dstack/workflows.yaml`", "create it, or go to the repository's folder")
        report.check()
    for path in workflow_files:
        loader.read_workflows(path)
    for path in sorted(files):
        if _is_file(path, "variables"):
            loader.read_variables(Source(path, files[path]))
        elif _is_file(path, "providers"):
            loader.read_providers(Source(path, files[path]))
    workflows = loader.workflows()
    report.check()
    return Workflows(
        workflows, loader.variables, providers, report.diagnostics(), loader.own_providers, loader.excludes
    )


def _is_workflows(path: str) -> bool:
    pure = PurePosixPath(path)
    if pure.suffix not in _SUFFIXES:
        return False
    return (pure.stem == "workflows" and pure.parent.name == ".dstack") or pure.parts[-3:-1] == (".dstack", "workflows")


def _is_file(path: str, name: str) -> bool:
    pure = PurePosixPath(path)
    return pure.stem == name and pure.suffix in _SUFFIXES and pure.parent.name == ".dstack"


def _rank(path: str) -> tuple[int, str]:
    """`.dstack/workflows.yaml` before the files of the folder."""
    return len(PurePosixPath(path).parts), path


def _why_no_name(name: str) -> str:
    if len(name) > MAX_NAME:
        return f"it has {len(name):,} characters, and {MAX_NAME} is the most: use a shorter one"
    return "use letters, digits, `_`, `-` and `.`; `global` is taken by the variables file"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    source: Source
    node: MapNode
    at: tuple[int, int]


class _Loader:
    """Collects entries of all files first: each may name any other."""

    def __init__(self, files: Mapping[str, str], providers: Mapping[str, type[Provider]], report: Report) -> None:
        self.files = files
        self.providers = providers
        self.own_providers: frozenset[str] = frozenset()
        """Names of the providers file."""
        self.providers_file = ""
        self.excludes: list[patterns.Exclude] = []
        self.report = report
        self.variables = Variables()
        self.read: dict[str, Source] = {}
        """Workflow files by path."""
        self.entries: list[_Entry] = []
        self.names: dict[str, _Entry] = {}
        self.variable_files: list[tuple[Source, Node | None]] = []
        self.budget = Budget()
        self.allowance = Allowance()

    def read_variables(self, source: Source) -> None:
        root = compose(source, self.report, self.allowance)
        if self.variable_files:
            message = f"there is another variables file, `{self.variable_files[0][0].file}`"
            self.report.error(source, (1, 1), message, "keep one of them")
            return
        self.variable_files.append((source, root))
        self.variables = variables.read(source, root, self.report)

    def read_providers(self, source: Source) -> None:
        # Not at the top, for pydantic; and hardly anybody has this file.
        from dstack.workflows import own_providers

        root = compose(source, self.report, self.allowance)
        if self.providers_file:
            message = f"there is another providers file, `{self.providers_file}`"
            self.report.error(source, (1, 1), message, "keep one of them")
            return
        self.providers_file = source.file
        self.own_providers = own_providers.read(source, root, self.providers, self.report)

    def read_workflows(self, path: str, including: tuple[str, ...] = ()) -> None:
        """The entries of one file and of those that it includes, by name."""
        if path in self.read:
            return
        source = self.read[path] = Source(path, self.files[path])
        errors = self.report.errors
        root = compose(source, self.report, self.allowance)
        if root is None or (isinstance(root, ScalarNode) and root.data is None):
            if self.report.errors == errors:
                self.report.warning(source, (1, 1), "the file holds no workflow", "start with `workflows:`")
            return
        if not isinstance(root, MapNode) or not root.entries.keys() & {"workflows", "include"}:
            hint = "start the file with `workflows:` and a list under it"
            self._missing(source, root, "workflows", "`workflows:` is missing", hint)
            return
        self._check_root(source, root)
        if "workflows" in root.entries:
            self._collect(source, root)
        if "include" in root.entries:
            self._include(source, root.entries["include"], (*including, path))

    def _check_root(self, source: Source, root: MapNode) -> None:
        for key, node in root.keys.items():
            if key not in _ROOT_KEYS and not key.startswith(_ANCHORS):
                hint = self.report.near(key, _ROOT_KEYS) or f"known keys: {', '.join(_ROOT_KEYS)}"
                self.report.error(source, node.at, f"unknown key `{key}`", hint)
        if "code" in root.entries:
            self._check_code(source, root.entries["code"])
            self.excludes += patterns.read(source, root)

    def _check_code(self, source: Source, node: Node) -> None:
        # Not at the top: this module is loaded for what needs no pydantic, too.
        from dstack.sdk.config import Code

        if self._check_written_out(source, node):
            check(Code, Subject(source, node, node.data), self.report)

    def _check_written_out(self, source: Source, node: Node) -> bool:
        """Which files are sent is decided where they are, before anything is filled in."""
        if node.dynamic:
            self.report.error(source, node.at, "`code` cannot hold an expression", "write the patterns out")
        return not node.dynamic

    def _collect(self, source: Source, root: MapNode) -> None:
        listed = root.entries["workflows"]
        if isinstance(listed, ScalarNode) and listed.data is None:
            self.report.warning(source, root.keys["workflows"].at, "the file holds no workflow", "list some under it")
        elif not isinstance(listed, ListNode):
            self.report.error(source, listed.at, "`workflows` must be a list", "start each with `- name: NAME`")
        else:
            for item in listed.items:
                self._collect_entry(source, item)

    def _include(self, source: Source, node: Node, including: tuple[str, ...]) -> None:
        for item in node.items if isinstance(node, ListNode) else [node]:
            if not isinstance(item, ScalarNode) or not isinstance(item.data, str) or item.dynamic:
                message = "`include` lists paths of workflow files"
                self.report.error(source, item.at, message, "write for example `include: [ci/workflows.yaml]`")
                continue
            path = posixpath.normpath(item.data)
            if path.startswith(("/", "~", "../")) or path == "..":
                message = f"`{item.data[:100]}` leads out of the repository"
                self.report.error(source, item.at, message, "paths start at the repository's folder")
            elif PurePosixPath(path).suffix not in _SUFFIXES:
                message = f"`{item.data[:100]}` is not a YAML file"
                self.report.error(source, item.at, message, "include files that end in .yaml or .yml")
            elif path in including:
                cycle = " → ".join([*including[including.index(path) :], path])
                self.report.error(source, item.at, f"files include each other: {cycle}", "remove one of these includes")
            elif len(including) >= _MOST_INCLUDING:
                message = f"files include each other over more than {_MOST_INCLUDING} steps"
                self.report.error(source, item.at, message, "include them in one file, as a list")
            elif path not in self.files:
                hint = self.report.near(path, self.files) or "paths start at the repository's folder"
                self.report.error(source, item.at, f"there is no file `{path[:100]}` to include", hint)
            else:
                self.read_workflows(path, including)

    def _collect_entry(self, source: Source, item: Node) -> None:
        if not isinstance(item, MapNode):
            self.report.error(source, item.at, "a workflow must be `key: value` lines", "start it with `- name: NAME`")
            return
        name_node = item.entries.get("name")
        if name_node is None:
            self._missing(source, item, "name", "the workflow has no `name`", "start it with `- name: NAME`")
            return
        name = text_of(name_node.data) if isinstance(name_node, ScalarNode) else ""
        at = name_node.at
        if name_node.dynamic:
            self.report.error(source, at, "the name of a workflow cannot hold an expression", "write it out")
        elif WORKFLOW_NAME.fullmatch(name) is None or name == variables.GLOBAL:
            self.report.error(source, at, f"`{name[:60]}` cannot name a workflow", _why_no_name(name))
        else:
            entry = _Entry(name, source, item, item.at)
            self.entries.append(entry)
            if (first := self.names.setdefault(name, entry)) is not entry:
                hint = f"the first is in {first.source.file}, line {first.at[0]}"
                self.report.error(source, at, f"there are two workflows named `{name}`", hint)

    def _missing(self, source: Source, node: Node, key: str, message: str, hint: str) -> None:
        """Report that `key` is missing, or that another key is a misspelling of it."""
        near = self.report.nearest(key, list(node.keys)) if isinstance(node, MapNode) else ""
        if isinstance(node, MapNode) and near:
            self.report.error(source, node.keys[near].at, f"unknown key `{near}`", f"did you mean `{key}`?")
        else:
            self.report.error(source, node.at, message, hint)

    def workflows(self) -> list[Workflow]:
        """All entries checked, one by one and against each other."""
        # Where the names of workflows could not be read, nothing is known of sections either.
        for source, root in self.variable_files if self.names or not self.report.errors else ():
            variables.check_sections(source, root, self.names, self.report)
        found: list[Workflow] = []
        for entry in self.entries:
            if self.report.hopeless:
                self.report.leave_out_the_rest()
                break
            with self.report.about(Uses(entry.node)):
                found.append(self._workflow(entry))
        self._check_cycles({workflow.name: workflow for workflow in found})
        for source in self.read.values():
            braces.check(source, self.variables, self.report)
        return found

    def _workflow(self, entry: _Entry) -> Workflow:
        scope = Scope(self.variables.of(entry.name), run_name="run-1", run_args="")
        filled = fill(entry.source, entry.node, scope, self.budget, self.report)
        self._report_missing(entry, filled)
        unknown = filled.unknown()
        names = ProviderNames(self.providers, self.own_providers, self.report)
        provider = names.read(entry.source, entry.node, filled.data, unknown)
        config = None
        if provider.meant:
            data = {**filled.data, "provider": provider.meant}
            data.pop(provider.misspelt, None)
            subject = Subject(entry.source, entry.node, data, unknown, scope.variables)
            config = check(self.providers[provider.meant].Config, subject, self.report, self.providers)
        folded.check(entry.source, entry.node, self.report)
        if "code" in entry.node.entries:
            self._check_written_out(entry.source, entry.node.entries["code"])
        used = frozenset(names_used(entry.node))
        if any(map(secrets.name_of, used)):
            secrets.check_places(entry.source, entry.node, self.report)
        needs = dependencies.read(entry.source, entry.node, filled.data, unknown, self.report)
        for dependency in needs:
            self._check_dependency(entry, dependency)
        return Workflow(
            name=entry.name,
            provider=provider.name or provider.elsewhere,
            help=text_of(filled.data.get("help")),
            file=entry.source.file,
            line=entry.at[0],
            source=entry.source,
            node=entry.node,
            config=config if provider.name and not entry.node.dynamic else None,
            dependencies=needs,
            uses=frozenset(map(canonical, used)),
        )

    def _report_missing(self, entry: _Entry, filled: Filled) -> None:
        for missing in filled.missing_names():
            name = missing.name.name
            at = expression_position(entry.source, missing.node, missing.name.ordinal, missing.name.offset)
            if "." in name:
                hint = self.report.near(name, RUN_NAMES) or f"known: {', '.join(RUN_NAMES)}, and variables"
                self.report.error(entry.source, at, f"nothing is named `{name}`", hint)
            elif canonical(name) not in self.variables.of(entry.name):
                near = self.report.near(name, [v.name for v in self.variables.of(entry.name).values()])
                hint = near or f"set it in .dstack/variables.yaml, or run with `--{name} VALUE`"
                self.report.warning(entry.source, at, f"the variable `{name}` has no value", hint)

    def _check_dependency(self, entry: _Entry, dependency: Dependency) -> None:
        name = dependency.workflow
        if dependency.kind == "run" and name == entry.name:
            hint = f"to go on from an earlier run of it, write `{name}:latest`"
            self.report.error(entry.source, dependency.at, f"`{name}` depends on itself", hint)
        elif name is not None and name not in self.names and dependency.repository is None:
            hint = self.report.near(name, self.names) or "known: " + ", ".join(itertools.islice(self.names, 10))
            tell = self.report.error if dependency.kind == "run" else self.report.warning
            tell(entry.source, dependency.at, f"there is no workflow `{name}`", hint)

    def _check_cycles(self, found: Mapping[str, Workflow]) -> None:
        def needs(name: str) -> list[str]:
            needed = (dep.workflow for dep in found[name].dependencies if dep.kind == "run")
            return [other for other in needed if other is not None and other in found and other != name]

        def tell(cycle: list[str]) -> None:
            last = found[cycle[-2]]
            at = next(dep.at for dep in last.dependencies if dep.kind == "run" and dep.workflow == cycle[-1])
            self.report.error(
                last.source,
                at,
                f"workflows depend on each other: {' → '.join(cycle)}",
                "remove one of these dependencies",
            )

        dependencies.order(found, needs, tell)
