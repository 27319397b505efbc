"""Reading loses nothing: scalars, expressions and trees."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from dstack.sdk.scalars import parse_scalar, text_of
from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.expressions import BadExpression, parse

numbers = st.from_regex(r"[-+]?[0-9.]{1,25}(e[-+]?[0-9]{1,5})?", fullmatch=True)
openings = st.lists(st.sampled_from(["$", "{", "}", "${{", "}}", "$${{", "a", " ", ".", "-", "1"]), max_size=20).map(
    "".join
)


@given(st.text() | numbers)
def test_a_scalar_keeps_its_text(text: str) -> None:
    value = parse_scalar(text)

    assert value is None or text_of(value) == text


@given(openings | st.text())
def test_escaped_text_comes_back_as_it_was(text: str) -> None:
    template = parse(text.replace("${{", "$${{"))

    if template is None:
        assert "${{" not in text
    else:
        assert template.fill(lambda name: None) == text


@given(openings)
def test_any_text_is_a_template_or_says_where_it_is_none(text: str) -> None:
    try:
        template = parse(text)
    except BadExpression as error:
        ordinal = error.ordinal
    else:
        ordinal = -1
        assert (template is None) == ("${{" not in text)
        for name in template.names if template is not None else ():
            assert text.count("${{") > name.ordinal
    assert text.count("${{") > ordinal


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10)
trees = st.recursive(
    texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts.filter(lambda key: key not in ("<<", "if")), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(trees, st.sampled_from(['"', "'"]), st.booleans())
def test_a_tree_is_what_was_written(tree: object, style: str, flow: bool) -> None:
    text = yaml.safe_dump(tree, default_style=style, default_flow_style=flow, allow_unicode=True)
    report = Report()

    node = compose(Source("f.yaml", text.replace("${{", "$ {{")), report)

    if "${{" not in text:
        assert report.diagnostics() == []
        assert node is not None
        assert node.data == tree
