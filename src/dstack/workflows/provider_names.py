"""How a workflow names its provider, in all spellings, and what stands for a name that is left out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

from dstack.sdk.scalars import shown, text_of
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import MapNode, Node

_ELSEWHERE = re.compile(r"(?P<repository>[\w.-]+(?:/[\w.-]+)+)(?:@(?P<ref>[^:\s]+))?:(?P<name>\w[\w.-]*)")
_AT_BRANCH = re.compile(r"(?P<name>\w[\w.-]*)@(?P<branch>\S+)")
# In 2022 this repository held the providers that are built in now.
_OWN_REPOSITORY = re.compile(r"(?:(?:https|git|ssh)://)?(?:git@)?github\.com[:/]dstackai/dstack(?:\.git)?/?")
_KEYS = ("repo", "name")

OWN = "providers of the repository cannot run yet"
INSTEAD = "run what it would run with `provider: bash`"


class ProviderRef(NamedTuple):
    """A provider: its name, and where it comes from if it is not built in. `ref` is a branch, tag or commit; without
    a repository, of this one."""

    name: str
    repository: str | None = None
    ref: str | None = None

    @property
    def foreign(self) -> str:
        """Why it cannot run; empty where it may be built in."""
        if self.repository is not None:
            return "providers of other repositories cannot run yet"
        return "providers of other branches cannot run yet" if self.ref is not None else ""

    @property
    def written(self) -> str:
        """As one word of a file."""
        ref = f"@{self.ref}" if self.ref is not None else ""
        return f"{self.name}{ref}" if self.repository is None else f"{self.repository}{ref}:{self.name}"


def parse(text: str) -> ProviderRef:
    """`NAME`, `NAME@BRANCH` or `OWNER/REPOSITORY@REF:NAME`."""
    if match := _ELSEWHERE.fullmatch(text):
        return ProviderRef(match["name"], match["repository"], match["ref"])
    if match := _AT_BRANCH.fullmatch(text):
        return ProviderRef(match["name"], None, match["branch"])
    return ProviderRef(text)


class Found(NamedTuple):
    """`name` is empty where it cannot be used; `meant` is whose keys the workflow most likely has, if any is.

    `elsewhere` is how people call a provider that is not built in, and so cannot run yet: `why` and `hint` say so, when
    a run needs it. `misspelt` is the key that was meant as `provider`.
    """

    name: str = ""
    meant: str = ""
    elsewhere: str = ""
    why: str = ""
    hint: str = ""
    misspelt: str = ""


class ProviderNames:
    """Reads names of providers, of which `known` are there, and `own` are named by the repository itself."""

    def __init__(self, known: Collection[str], own: Collection[str], report: Report) -> None:
        self._known = known
        self._own = own
        self._report = report

    def read(self, source: Source, node: MapNode, data: Mapping[str, Any], unknown: Collection[int]) -> Found:
        """The provider of the workflow at `node`, filled in as `data`; none after reporting what is wrong, or where
        it depends on what has no value yet (the ids in `unknown`). One that cannot run yet is reported by whoever
        runs it."""
        place = node.entries.get("provider")
        if place is None:
            return self._left_out(source, node, data)
        if any(id(part) in unknown for part in _parts(place)):
            return Found()
        found = self._reference(source, place, data["provider"])
        if found is None:
            return Found()
        if found.foreign:
            hint = f"write `provider: {found.name}`" if found.name in self._known else ""
            return Found(elsewhere=found.written, why=f"{found.foreign}: {_shown(found)}", hint=hint)
        if found.name in self._known:
            return Found(found.name, found.name)
        if found.name in self._own:
            return Found(elsewhere=found.name, why=f"{OWN}: `{found.name}`", hint=INSTEAD)
        at = place.entries["name"].at if isinstance(place, MapNode) else place.at
        near = self._report.nearest(found.name, [*self._known, *self._own])
        hint = f"did you mean `{near}`?" if near else self.listing
        self._report.error(source, at, f"unknown provider `{found.name[:60]}`", hint)
        return Found(meant=near if near in self._known else "")

    @property
    def listing(self) -> str:
        return "known: " + ", ".join(f"`{name}`" for name in self._known)

    def _left_out(self, source: Source, node: MapNode, data: Mapping[str, Any]) -> Found:
        """The first form of 2022 has no provider: an image and commands; and commands alone are for a shell."""
        for key, name in (("image", "docker"), ("commands", "bash")):
            if key in node.entries and name in self._known:
                return Found(name, name)
        near = self._report.nearest("provider", list(node.keys))
        if near:
            self._report.error(source, node.keys[near].at, f"unknown key `{near}`", "did you mean `provider`?")
            meant = text_of(data[near]) if isinstance(data[near], str) else ""
            return Found(meant=meant if meant in self._known else "", misspelt=near)
        else:
            workflow = text_of(data.get("name"))
            hint = f"add `commands:` for a shell, or `provider:` with one of: {self.listing.removeprefix('known: ')}"
            self._report.error(source, node.at, f"the workflow `{workflow}` has no `provider`", hint)
        return Found()

    def _reference(self, source: Source, place: Node, value: Any) -> ProviderRef | None:
        if isinstance(place, MapNode):
            return self._mapped(source, place, cast("dict[str, Any]", value))
        if isinstance(value, str | int | float):
            return parse(text_of(value))
        self._report.error(source, place.at, f"`provider` must be a name, not {shown(value)}", self.listing)
        return None

    def _mapped(self, source: Source, place: MapNode, value: Mapping[str, Any]) -> ProviderRef | None:
        """`{repo: URL, name: NAME}`."""
        complete = True
        for key, node in place.keys.items():
            if key not in _KEYS:
                hint = self._report.near(key, _KEYS) or "known keys: repo, name"
                self._report.error(source, node.at, f"unknown key `{key}`", hint)
                complete = False
        for key in _KEYS:
            text = value.get(key)
            if key not in value:
                self._report.error(source, place.at, f"`{key}` is missing", "write `provider: {repo: URL, name: NAME}`")
            elif not isinstance(text, str) or not text.strip():
                self._report.error(source, place.entries[key].at, f"`provider.{key}`: expected text, not {shown(text)}")
            else:
                continue
            complete = False
        if not complete:
            return None
        repository, name = str(value["repo"]), str(value["name"])
        return ProviderRef(name, None if _OWN_REPOSITORY.fullmatch(repository) else repository)


def _shown(reference: ProviderRef) -> str:
    name = f"`{reference.name[:60]}`"
    name += f" of {reference.repository[:100]}" if reference.repository is not None else ""
    return name + (f" at `{reference.ref[:60]}`" if reference.ref is not None else "")


def _parts(node: Node) -> Iterable[Node]:
    return (node, *node.entries.values()) if isinstance(node, MapNode) else (node,)
