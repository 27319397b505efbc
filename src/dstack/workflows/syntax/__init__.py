"""What the YAML parser says about a text → a sentence for people, the place where the mistake is, and what to write.

The parser (libyaml) stops where it cannot go on, which is often lines after the mistake, and names what it expected in
words of the grammar. Each of its problems has rules here that look at the text around that place; the first that knows
answers. `PROBLEMS` has every problem of libyaml 0.2 that a text can cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import yaml

from dstack.workflows.diagnostics import Source
from dstack.workflows.syntax import lines, signs
from dstack.workflows.syntax.trouble import UNCLOSED, Finding, Read, Trouble

__all__ = ["PROBLEMS", "UNCLOSED", "Finding", "Read", "explain", "too_deep", "unreadable"]

Rule = Callable[[Trouble], Finding | None]


def explain(source: Source, error: yaml.MarkedYAMLError, read: Read, max_depth: int) -> Finding:
    """What is wrong with `source`, of which `read` was read before the parser refused it with `error`."""
    if "nesting depth" in (error.problem or ""):
        mark = error.problem_mark or error.context_mark
        return Finding(source.position(mark.index if mark else 0), too_deep(max_depth), UNCLOSED)
    trouble = Trouble(source, error, read)
    for rule in (
        signs.tab,
        signs.odd_space,
        signs.quote_left_open,
        signs.after_quote,
        *PROBLEMS.get(error.problem or "", ()),
    ):
        if (finding := rule(trouble)) is not None:
            return finding
    return Finding(trouble.at, "this is not valid YAML", "check the indentation, brackets and quotes around here")


def unreadable(source: Source, error: yaml.reader.ReaderError) -> Finding:
    """What is wrong with a text that holds characters which no YAML file may hold."""
    index = len(source.text.encode()[: error.position].decode(errors="ignore"))
    at = source.position(index)
    char = source.text[index : index + 1]
    if "\0" in source.text[:64]:
        return Finding(at, "not a text file in UTF-8: it holds zero bytes", "save it as UTF-8 (not UTF-16) text")
    if not char:
        return Finding(at, f"not a text file: {error.reason}", "save it as UTF-8 text")
    code = f"U+{ord(char):04X}"
    what = "the zero byte" if char == "\0" else f"the control character {code}"
    escape = f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
    return Finding(at, f"{what} is not allowed", f'remove it; within double quotes write `"{escape}"`')


def too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} levels"


_COLON: Sequence[Rule] = (
    lines.no_space_after_colon, lines.block_text_ended, lines.dash_without_space, lines.no_colon,
)  # fmt: skip
_FLOW: Sequence[Rule] = (
    signs.open_bracket, signs.expression_in_brackets, signs.wrong_bracket, signs.missing_comma,
)  # fmt: skip
_KEYS: Sequence[Rule] = (
    signs.extra_bracket, lines.colon_alone, lines.no_space_above, lines.beside_items, lines.block_text_ended,
    lines.misaligned, lines.item_beside_keys, lines.complete_already, lines.no_colon,
)  # fmt: skip
_TAGS: Sequence[Rule] = (signs.tag,)
_LINES_WITH_PERCENT: Sequence[Rule] = (signs.percent,)

PROBLEMS: Mapping[str, Sequence[Rule]] = {
    # scanner
    "found character that cannot start any token": (signs.special_sign,),
    "could not find expected ':'": _COLON,
    "block sequence entries are not allowed in this context": (signs.dash_in_brackets, lines.list_behind_key),
    "mapping keys are not allowed in this context": (signs.question_mark,),
    "mapping values are not allowed in this context": (
        lines.dash_without_space, lines.no_space_above, lines.colon_in_value, signs.open_bracket, lines.no_colon_above,
        lines.continues_value, lines.colon_alone,
    ),
    "found unexpected ':'": (signs.colon_before_sign,),
    "found unexpected document indicator": (signs.open_quote,),
    "found unexpected end of stream": (signs.open_quote,),
    "found unknown escape character": (signs.escape,),
    "did not find expected hexdecimal number": (signs.escape,),
    "found invalid Unicode character escape code": (signs.escape,),
    "found a tab character that violates indentation": (),
    "found a tab character where an indentation space is expected": (),
    "did not find expected alphabetic or numeric character": (signs.alias_or_anchor,),
    "did not find expected comment or line break": (signs.block_header,),
    "found an indentation indicator equal to 0": (signs.block_indent,),
    "did not find expected whitespace or line break": _TAGS,
    "did not find the expected '>'": _TAGS,
    "did not find expected '!'": _TAGS,
    "did not find expected tag URI": _TAGS,
    "did not find URI escaped octet": _TAGS,
    "found an incorrect leading UTF-8 octet": _TAGS,
    "found an incorrect trailing UTF-8 octet": _TAGS,
    "found undefined tag handle": _TAGS,
    "found unexpected non-alphabetical character": _LINES_WITH_PERCENT,
    "could not find expected directive name": _LINES_WITH_PERCENT,
    "found unknown directive name": _LINES_WITH_PERCENT,
    "found extremely long version number": _LINES_WITH_PERCENT,
    "did not find expected digit or '.' character": _LINES_WITH_PERCENT,
    "did not find expected version number": _LINES_WITH_PERCENT,
    "did not find expected whitespace": _LINES_WITH_PERCENT,
    # parser
    "did not find expected <document start>": (signs.document_end,),
    "did not find expected node content": (
        signs.open_bracket, signs.expression_in_brackets, signs.dash_in_brackets, signs.nothing_there,
        signs.wrong_bracket, signs.extra_bracket, signs.ended, signs.cannot_start,
    ),
    "did not find expected '-' indicator": (
        lines.no_space_above, lines.beside_items, lines.block_text_ended, lines.misaligned, lines.complete_already,
        lines.no_colon,
    ),
    "did not find expected key": _KEYS,
    "did not find expected ',' or ']'": _FLOW,
    "did not find expected ',' or '}'": _FLOW,
    "found duplicate %YAML directive": _LINES_WITH_PERCENT,
    "found duplicate %TAG directive": _LINES_WITH_PERCENT,
    "found incompatible YAML document": _LINES_WITH_PERCENT,
}  # fmt: skip
