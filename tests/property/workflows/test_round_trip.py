"""Any mapping that the schema describes is read as what it is, and accepted; what is refused is beyond any schema."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dstack.providers import registry
from dstack.workflows import Invalid, load
from dstack.workflows.schema import variables_schema, workflows_schema
from tests.property.workflows.from_schema import FromSchema, texts
from tests.property.workflows.test_never_crashes import KEYS, values
from tests.support.yamls import data_of

FILE = ".dstack/workflows.yaml"
SCHEMA = workflows_schema(registry())
VALIDATOR = Draft202012Validator(SCHEMA)
VARIABLES = Draft202012Validator(variables_schema())

folders = st.sampled_from(["data", "./out/", "a/b c", ".x", "ünï/..dots", "-rf", "a//b"])
blank = st.sampled_from([" ", "x", "train.py --epochs 3", "a: b", "*", "- x", "#", "'", "no", "1e3", "0x1F", "~", "é"])
reader = FromSchema(
    SCHEMA,
    {
        # Patterns with look-aheads, and those for which most matches mean nothing.
        "^(?![/~])(?!(.*/)?\\.\\.(/|$))[^\\x00-\\x1f]*[^\\x00-\\x20][^\\x00-\\x1f]*$": folders | st.just("."),
        "^(?!(\\./*)+$)(?![/~])(?!(.*/)?\\.\\.(/|$))[^\\x00-\\x1f]*[^\\x00-\\x20][^\\x00-\\x1f]*$": folders,
        r"^(/|(?!~)(?!(.*/)?\.\.(/|$)))[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$": folders | st.just("/data"),
        r"\S": (blank | texts).filter(lambda text: text.strip() != ""),
        r"^\s*(0|\d+(\.\d+)?\s*([KMGTkmgt][Ii]?[Bb]?|[Bb]))\s*$": st.sampled_from(["0", "16GB", "512 MiB", "1.5t"]),
        r"^\s*(\d{1,9}(\.\d+)?|(\d+(\.\d+)?(ms|[smhdw]))+)\s*$": st.sampled_from(
            ["90", "1h30m", "0.5s", "2d", "100ms"]
        ),
        "^[A-Za-z_][A-Za-z0-9_]*$": st.sampled_from(["A", "LEVEL", "_x1"]),
        "^[A-Za-z_][A-Za-z0-9_]*(=|$)": st.sampled_from(["A=b", "LEVEL", "_x=", "B=c=d"]),
        # Names of workflows, tags and repositories.
        "Dependency": st.fixed_dictionaries({"workflow": st.just("other")}, optional={"mount": st.booleans()})
        | st.fixed_dictionaries({"tag": st.sampled_from(["v1", ":v1", 7])}),
    },
)
dependencies = st.sampled_from(
    ["other", "other:latest", ":v1", "user/repo/other", {"tag": "v1"}, {"workflow": "other"}]
)
dependencies = dependencies | st.lists(dependencies, max_size=3) | st.none()
conditions = st.sampled_from([True, False, "always()", "failed() or success()", "not failed()", "true"])
CLASHES = (
    ("env", "environment"), ("version", "python"), ("before_run", "setup"), ("script", "file", "python_script"),
    ("continue-on-failure", "continue_on_failure"), ("fail-fast", "fail_fast"), ("runs", "logdir"),
)  # fmt: skip
"""Keys of which a workflow has one."""
BEYOND = re.compile(
    "cannot be split into arguments|lies in none of the `artifacts`|exclude each other|must name a file"
    "|one job has one kind of GPU|is longer than a year|is more memory than any machine has"
)
"""What a schema cannot say."""


@cache
def entries(provider: str) -> st.SearchStrategy[dict[str, Any]]:
    fixed = {"name": st.just("train"), "provider": st.just(provider)}
    keys = {"depends-on": dependencies, "deps": dependencies, "if": conditions}
    found = reader.named(f"provider: {provider}", {**fixed, **keys})
    return found.map(without_clashes)


def without_clashes(entry: dict[str, Any]) -> dict[str, Any]:
    kept = dict(entry)
    for keys in CLASHES:
        present = sorted((key for key in keys if key in kept), key=lambda key: kept[key] is None)
        for key in present[1:]:
            del kept[key]
    return kept


class _Dumper(yaml.SafeDumper):
    """Quotes texts that YAML 1.2 would read as something else, which PyYAML's own does by the rules of 1.1."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def dumped(data: Any, *, flow: bool) -> str:
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=10**6)


@settings(max_examples=200)
@given(st.data(), st.sampled_from(sorted(registry())), st.booleans())
def test_what_the_schema_describes_is_read_as_it_is(data: st.DataObject, provider: str, flow: bool) -> None:
    entry = data.draw(entries(provider))
    other = {"name": "other", "provider": "bash", "commands": ["echo"]}
    tree = {"workflows": [entry, other]}
    assert list(VALIDATOR.iter_errors(tree)) == []

    try:
        workflows = load({FILE: dumped(tree, flow=flow)}, registry())
    except Invalid as error:
        wrong = [found for found in error.diagnostics if found.severity == "error"]
        assert all(BEYOND.search(found.message) for found in wrong), wrong
        assume(False)
        return

    assert workflows["train"].node.data == entry
    assert workflows["train"].config is not None


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts
sections = st.dictionaries(names, scalars, max_size=3) | st.none()


@given(st.dictionaries(st.sampled_from(["global", "train"]), sections) | st.none(), st.booleans())
def test_variables_are_read_as_they_are(tree: dict[str, Any] | None, flow: bool) -> None:
    assert list(VARIABLES.iter_errors({"variables": tree})) == []
    spelled = [name.replace("-", "_").upper() for section in (tree or {}).values() for name in section or ()]
    assume(len(set(spelled)) == len(spelled))
    workflow = "workflows: [{name: train, provider: bash, commands: [echo]}]"

    found = load({FILE: workflow, ".dstack/variables.yaml": dumped({"variables": tree}, flow=flow)}, registry())

    expected = {**((tree or {}).get("global") or {}), **((tree or {}).get("train") or {})}
    assert {item.name: item.value for item in found.variables.of("train").values()} == expected


@settings(max_examples=300)
@given(
    st.sampled_from(["bash", "python", "curl", "docker"]), st.dictionaries(st.sampled_from(KEYS), values, max_size=2)
)
def test_what_the_loader_takes_the_schema_describes(provider: str, keys: dict[str, Any]) -> None:
    needed = {"bash": {"commands": "x"}, "python": {"script": "x"}, "docker": {"image": "x"}, "curl": CURL}[provider]
    tree = {"workflows": [{"name": "train", "provider": provider, **needed, **keys}]}
    text = dumped(tree, flow=False)
    assume("${{" not in text)  # the loader waits for the values
    try:
        load({FILE: text}, registry())
    except Invalid:
        return

    assert list(VALIDATOR.iter_errors(data_of(text))) == []


CURL = {"url": "http://localhost/x", "output": "data/x", "artifacts": ["data"]}
