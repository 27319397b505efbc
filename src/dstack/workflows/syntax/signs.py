"""Quotes, brackets, and signs that mean something to YAML: what went wrong with them."""

from __future__ import annotations

import re

from dstack.workflows.syntax.trouble import (
    COMMENT,
    KEY,
    ODD_SPACES,
    REACH,
    UNCLOSED,
    Finding,
    Trouble,
    in_quotes,
    line_at,
    quote,
    shorten,
)

_ODD_SPACE = re.compile(rf"(?:^\s*?|[:-][ \t]*?)([{''.join(ODD_SPACES)}])")
_CURLY_QUOTE = re.compile("(?:[:,\\[{-] *)([\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u00ab\u00bb])")
BRACKETS = {"[": "]", "{": "}"}
_HEX = {"x": 2, "u": 4, "U": 8}


def tab(trouble: Trouble) -> Finding | None:
    line = trouble.before + trouble.after
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    if "\t" not in indent or trouble.problem.startswith("found unexpected end"):
        return None
    at = (trouble.at[0], indent.index("\t") + 1)
    return Finding(at, "the line is indented with a tab", "YAML is indented with spaces: replace the tab")


def odd_space(trouble: Trouble) -> Finding | None:
    """Pages and word processors bring spaces and quotes that look right."""
    lines = {trouble.at[0], trouble.opening()[0]} if not trouble.at_end else {trouble.at[0]}
    for number in sorted(lines):
        line = trouble.line(number)
        if (match := _ODD_SPACE.search(line)) is not None:
            name = f"{ODD_SPACES[match[1]]} (U+{ord(match[1]):04X})"
            return Finding((number, match.start(1) + 1), f"{name} stands here", "type a plain space in its place")
        if number == trouble.at[0] and (match := _CURLY_QUOTE.search(line)) is not None:
            message = f"`{match[1]}` is no quote for YAML"
            return Finding((number, match.start(1) + 1), message, "type `\"` or `'` in its place")
    return None


def quote_left_open(trouble: Trouble) -> Finding | None:
    """A quote was left open, and closed by one that was meant to open, in the line where the parser stopped."""
    if trouble.quoted is None or trouble.at_end or trouble.problem.startswith("found unexpected"):
        return None
    opening, closing = (trouble.source.position(index) for index in (trouble.quoted[0], trouble.quoted[1] - 1))
    if opening[0] == closing[0] or closing[0] not in (trouble.at[0], trouble.opening()[0]):
        return None
    hint = f"a quote is missing in line {opening[0]}, or one too many in line {closing[0]}"
    return Finding(opening, f"the quote opened here is closed only in line {closing[0]}", hint)


def after_quote(trouble: Trouble) -> Finding | None:
    """Something follows a closing quote."""
    if trouble.quoted is None or trouble.at_end or trouble.problem.startswith(("found unexpected", "found unknown")):
        return None
    start, end = trouble.quoted
    between = trouble.text[end : trouble.index]
    if not 0 <= trouble.index - end <= REACH or between.strip(" \t"):
        return None
    if trouble.starts_line or trouble.after.startswith(tuple(",:]}#")):
        return None
    mark = trouble.text[start]
    if mark == "'" and end == trouble.index:
        closing = trouble.source.position(end - 1)
        return Finding(closing, "the text goes on after this quote, which closes it", "within '…', write `''` for `'`")
    whole = trouble.text[start:end] + between + trouble.rest
    hint = "close the quotes at the end of the value"
    if "mapping values" not in trouble.problem and "flow" not in trouble.context and len(whole) <= 60:
        hint = f"put the whole value in quotes: `{quote(whole) if mark == chr(34) else chr(34) + whole + chr(34)}`"
    return Finding(trouble.at, f"`{shorten(trouble.rest)}` stands after the closing quote", hint)


def open_quote(trouble: Trouble) -> Finding:
    mark = trouble.text[trouble.opened] if trouble.opened is not None else '"'
    hint = f"close it with `{mark}`" + ("; write `''` for `'` within" if mark == "'" else "")
    return Finding(trouble.opening(), f"the quote `{mark}` opened here is not closed", hint)


def open_bracket(trouble: Trouble) -> Finding | None:
    """A bracket was left open: a line after it is indented no deeper than its own."""
    if trouble.bracket is None:
        return None
    opened = trouble.source.position(trouble.bracket)
    sign = trouble.text[trouble.bracket]
    column = trouble.content(opened[0])
    if trouble.at_end or any(trouble.indent(line) <= column for line in trouble.since(opened[0])):
        return Finding(opened, f"the `{sign}` opened here is not closed", f"close it with `{BRACKETS[sign]}`")
    return None


def wrong_bracket(trouble: Trouble) -> Finding | None:
    if trouble.bracket is None or trouble.after[:1] not in ("]", "}"):
        return None
    closes = BRACKETS[trouble.text[trouble.bracket]]
    hint = f"the bracket opened in line {trouble.source.position(trouble.bracket)[0]} is closed with `{closes}`"
    return Finding(trouble.at, f"`{trouble.after[0]}` closes the wrong bracket", hint)


def dash_in_brackets(trouble: Trouble) -> Finding | None:
    if trouble.bracket is None or not trouble.after.startswith("-"):
        return None
    found = open_bracket(trouble)
    return found or Finding(
        trouble.at, "`- ` cannot stand within `[ ]` or `{ }`", "remove the `-`, or put it in quotes"
    )


def expression_in_brackets(trouble: Trouble) -> Finding | None:
    """`[--lr, ${{ lr }}]`: the braces are brackets to YAML."""
    line = trouble.before + trouble.after
    place = len(trouble.before)
    start = line.rfind("${{", 0, place + 3)
    if start < 0 or place - start > 80:
        return None
    at = (trouble.at[0], trouble.at[1] - place + start)
    end = line.find("}}", start)
    name = line[start : end + 2] if 0 <= end < start + 60 else "${{ name }}"
    return Finding(at, "an expression within `[ ]` or `{ }` needs quotes", f'write `"{name}"`')


def missing_comma(trouble: Trouble) -> Finding:
    if trouble.after[:1] == ":" and (key := KEY.match(trouble.before + ":")) is not None:
        at = (trouble.at[0], key.start("key") + 1)
        return Finding(at, f"a `,` is missing before `{shorten(key['key'])}`", "put it at the end of the line above")
    if trouble.after[:1] == ":":
        return Finding(trouble.at, "there is no key before this `:`", "put a value that holds `:` in quotes")
    return Finding(trouble.at, f"a `,` is missing before `{shorten(trouble.rest)}`", "or put the whole value in quotes")


def extra_bracket(trouble: Trouble) -> Finding | None:
    char = trouble.after[:1]
    if char not in ("]", "}", ","):
        return None
    if char == ",":
        return Finding(trouble.at, "this `,` stands outside of `[ ]` and `{ }`", "put the whole value in quotes")
    return Finding(trouble.at, f"`{char}` closes a bracket that is not open", "remove it, or open the bracket before")


def nothing_there(trouble: Trouble) -> Finding | None:
    """Within brackets, where a value must stand."""
    char = trouble.after[:1]
    if char == ",":
        return Finding(trouble.at, "there is no value before this `,`", "remove one `,`")
    if char == ":":
        word = re.split(r"[,\]}]", trouble.rest)[0]
        return Finding(trouble.at, "a value cannot start with `:` here", in_quotes(word))
    return None


def colon_before_sign(trouble: Trouble) -> Finding:
    """`[a:]`."""
    return Finding(trouble.at, "a `:` within `[ ]` or `{ }` must be followed by a space", "or put the value in quotes")


def question_mark(trouble: Trouble) -> Finding:
    return Finding(trouble.at, "a value cannot start with `? `", in_quotes(trouble.rest))


def special_sign(trouble: Trouble) -> Finding:
    """`@`, `%` or `` ` `` at the start of a value."""
    sign = trouble.after[:1]
    shown = f"`{sign}`" if sign != "`" else "a backtick"
    in_flow = any(mark in trouble.before for mark in "[{")
    value = re.split(r"[,\]}]", trouble.rest)[0] if in_flow else trouble.rest
    return Finding(trouble.at, f"a value cannot start with {shown}", in_quotes(value))


def alias_or_anchor(trouble: Trouble) -> Finding:
    at = trouble.opening()
    word = COMMENT.sub("", line_at(trouble.text, trouble.opened or trouble.index)).rstrip()
    if word.startswith("&"):
        return Finding(at, "`&` at the start of a value gives it a name for `*name`", in_quotes(word))
    return Finding(at, "`*` at the start of a value refers to one marked with `&`", in_quotes(word))


def block_header(trouble: Trouble) -> Finding:
    sign = trouble.text[trouble.opened] if trouble.opened is not None else "|"
    value = f"{sign} {trouble.rest}"
    hint = f"begin the text in the next line; or, if `{sign}` belongs to it, {in_quotes(value)}"
    return Finding(trouble.at, f"text follows `{sign}` in its line", hint)


def block_indent(trouble: Trouble) -> Finding:
    return Finding(trouble.at, "the indentation after `|` or `>` cannot be 0", "remove the number")


def escape(trouble: Trouble) -> Finding:
    """The place is behind the backslash for some problems, at it for others."""
    start = trouble.index if trouble.after[:1] == "\\" else max(trouble.text.rfind("\\", 0, trouble.index + 1), 0)
    at = trouble.source.position(start)
    sign = trouble.text[start + 1 : start + 2]
    if "unknown escape" in trouble.problem:
        hint = f"write `\\\\{sign}` for a backslash, or put the value in single quotes"
        return Finding(at, f'`\\{sign}` means nothing within "…"', hint)
    if "hexdecimal" in trouble.problem:
        count = _HEX.get(sign, 4)
        return Finding(at, f"`\\{sign}` needs {count} hexadecimal digits", "in single quotes a backslash is just that")
    return Finding(at, "this escape stands for no character", "in single quotes a backslash is just that")


def tag(trouble: Trouble) -> Finding:
    at = trouble.opening()
    word = COMMENT.sub("", line_at(trouble.text, trouble.source.text.find("!", trouble.opened or 0))).rstrip()
    return Finding(at, "`!` at the start of a value marks its type", in_quotes(word) if word.startswith("!") else "")


def percent(trouble: Trouble) -> Finding:
    return Finding((trouble.at[0], 1), "a line cannot begin with `%`", "remove the line, or put the value in quotes")


def document_end(trouble: Trouble) -> Finding:
    return Finding(trouble.at, "something follows the end of the document", "remove the line `...` above, or this")


def cannot_start(trouble: Trouble) -> Finding | None:
    if trouble.rest:
        return Finding(trouble.at, f"no value starts with `{trouble.rest[0]}`", in_quotes(trouble.rest))
    return None


def ended(trouble: Trouble) -> Finding | None:
    if not trouble.at_end:
        return None
    last = trouble.text[trouble.index : trouble.index + 1]
    if last in ("[", "{"):
        return Finding(trouble.at, f"the `{last}` opened here is not closed", f"close it with `{BRACKETS[last]}`")
    return Finding(trouble.at, "the file ends before this is complete", UNCLOSED)
