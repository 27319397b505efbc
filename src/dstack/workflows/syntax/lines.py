"""Keys, colons, dashes and indentation: what went wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dstack.workflows.syntax.trouble import COMMENT, KEY, Finding, Trouble, in_quotes, shorten

_NO_SPACE_AFTER_COLON = re.compile(r"""\s*(?:- +)*(?P<key>[\w./-]+):(?P<value>[^\s:/].*)""")
_NO_SPACE_AFTER_DASH = re.compile(r"\s*-(?P<value>[A-Za-z_][\w.-]*:?)")
_WORD_ALONE = re.compile(r"\s*(?:- +)*(?P<word>[A-Za-z_][\w.-]*)\s*")
_BLOCK_TEXT = re.compile(r"(?:^|.*[:\s-]\s*)(?P<sign>[|>])[-+0-9]*\s*(?:#.*)?")


def dash_without_space(trouble: Trouble) -> Finding | None:
    """`-name: a`: of several such lines the first."""
    found: Finding | None = None
    for number in range(trouble.at[0], max(trouble.at[0] - 20, 0), -1):
        if (match := _NO_SPACE_AFTER_DASH.match(trouble.line(number))) is not None:
            hint = f"write `- {match['value']}`"
            found = Finding((number, match.start("value")), "there is no space after this `-`", hint)
        elif found is not None or number < trouble.at[0] - 1:
            break
    return found


def colon_in_value(trouble: Trouble) -> Finding | None:
    """`help: says: hello`."""
    if trouble.after[:1] != ":" or (key := KEY.match(trouble.before)) is None:
        return None
    value = (trouble.before + trouble.rest)[key.end() :]
    return Finding(trouble.at, "a value without quotes cannot hold `: `", in_quotes(value))


def no_space_above(trouble: Trouble) -> Finding | None:
    """`- name:a`, and `commands: [x]` below it: of several such lines the first."""
    found: Finding | None = None
    for number, line in trouble.above():
        match = _NO_SPACE_AFTER_COLON.fullmatch(COMMENT.sub("", line))
        if match is None or KEY.match(line) is not None:
            break
        found = _no_space(number, match)
    return found


def no_colon_above(trouble: Trouble) -> Finding | None:
    """`workflows` alone in its line, and what belongs to it below."""
    above = trouble.above()
    number, line = next(above, (0, ""))
    match = _WORD_ALONE.fullmatch(COMMENT.sub("", line))
    if match is None:
        return None
    for _, before in above:
        key = KEY.match(before)
        if key is not None and key.start("key") < match.start("word") and COMMENT.sub("", before[key.end() :]).strip():
            return None  # the word goes on with that key's value
        break
    at = (number, match.end("word") + 1)
    return Finding(at, f"there is no `:` after `{shorten(match['word'])}`", f"write `{shorten(match['word'])}:`")


def continues_value(trouble: Trouble) -> Finding | None:
    """A key that is indented deeper than the line above, which ends in a value."""
    if (key := KEY.match(trouble.before + trouble.after)) is None:
        return None
    for number, line in trouble.above():
        if (other := KEY.match(line)) is None:
            continue
        at = (trouble.at[0], key.start("key") + 1)
        column = other.start("key") + 1
        if at[1] <= column:
            return None
        message = (
            f"`{shorten(key['key'])}` is indented deeper than `{shorten(other['key'])}`, which has a value already"
        )
        return Finding(at, message, f"align it with line {number} (column {column})")
    return None


def no_space_after_colon(trouble: Trouble) -> Finding | None:
    """`commands:[x]`."""
    number = trouble.opening()[0]
    if (match := _NO_SPACE_AFTER_COLON.match(trouble.line(number))) is None:
        return None
    return _no_space(number, match)


def _no_space(number: int, match: re.Match[str]) -> Finding:
    hint = f"write `{match['key']}: {shorten(match['value'].rstrip())}`"
    return Finding((number, match.end("key") + 1), "there is no space after this `:`", hint)


def block_text_ended(trouble: Trouble) -> Finding | None:
    """The lines under `|` are indented less than they must be."""
    at = trouble.opening() if "simple key" in trouble.context else trouble.at
    for _, line in trouble.above(at[0]):
        indent = len(line) - len(line.lstrip())
        if (match := _BLOCK_TEXT.fullmatch(line)) is not None:
            if KEY.match(trouble.line(at[0])) is not None and indent >= at[1] - 1:
                return None
            key = KEY.match(line)
            under = f"`{key['key']}: {match['sign']}`" if key is not None else f"`{match['sign']}`"
            message = f"this line is indented too little to belong to the text of {under}"
            return Finding(at, message, f"begin it in column {indent + 3} or later, as the text's other lines")
        if indent < at[1] - 1:
            return None
    return None


def no_colon(trouble: Trouble) -> Finding:
    """A line with neither `key:` nor `- `."""
    at = trouble.opening() if "simple key" in trouble.context else trouble.at
    line = COMMENT.sub("", trouble.line(at[0])).strip()
    if re.fullmatch(r"[\w-]+", line):
        return Finding(at, f"there is no `:` after `{shorten(line)}`", f"write `{shorten(line)}: VALUE`")
    if re.fullmatch(r"[\w-]+ *=.*", line):
        key, _, value = line.partition("=")
        return Finding(at, "a value follows `key: `, not `=`", f"write `{key.strip()}: {shorten(value.strip())}`")
    message = "this line is neither `key: value` nor `- item`"
    return Finding(
        at, message, "to go on with the value above, indent it deeper; else check for a missing `:` or quote"
    )


def misaligned(trouble: Trouble) -> Finding | None:
    """A line whose indentation fits none above."""
    if not trouble.starts_line:
        return None
    column, is_item = trouble.at[1], trouble.after.startswith(("- ", "-\t")) or trouble.rest == "-"
    best: tuple[int, int, int, str] | None = None
    for number, line in trouble.above():
        for start, word in _starts(line, is_item):
            candidate = (abs(start - column), trouble.at[0] - number, start, word)
            best = candidate if best is None or candidate < best else best
    if best is None or best[2] == column:
        return None
    _, distance, start, word = best
    line = trouble.at[0] - distance
    message = f"`{shorten(trouble.rest, 30)}` is indented like nothing above it"
    return Finding(trouble.at, message, f"align it with `{shorten(word, 30)}` in line {line} (column {start})")


def _starts(line: str, items: bool) -> Iterator[tuple[int, str]]:
    """The columns where list items or keys begin in a line, and what begins there."""
    position = len(line) - len(line.lstrip(" "))
    while line.startswith("- ", position):
        if items:
            yield position + 1, COMMENT.sub("", line[position:]).rstrip()
        rest = line[position + 1 :]
        position += 1 + len(rest) - len(rest.lstrip(" "))
    if not items and (key := KEY.match(line)) is not None:
        yield position + 1, key["key"]


def beside_items(trouble: Trouble) -> Finding | None:
    """A key in the column of the `-` before the item that it belongs to."""
    if not trouble.starts_line or (key := KEY.match(trouble.after)) is None:
        return None
    for number, line in trouble.above():
        if line.startswith("-", trouble.at[1] - 1) and not line[: trouble.at[1] - 1].strip():
            start = next((start for start, _ in _starts(line, items=False)), trouble.at[1] + 2)
            hint = f"align it with the first key of line {number} (column {start})"
            return Finding(trouble.at, f"`{shorten(key['key'])}` stands beside the list's items, not in one", hint)
    return None


def item_beside_keys(trouble: Trouble) -> Finding | None:
    if not trouble.starts_line or not trouble.after.startswith("- "):
        return None
    hint = "indent it deeper than the key that it belongs to"
    return Finding(trouble.at, "an item of a list cannot stand beside keys", hint)


def colon_alone(trouble: Trouble) -> Finding | None:
    if trouble.after[:1] != ":":
        return None
    return Finding(trouble.at, "there is no key before this `:`", "write `key: value`")


def complete_already(trouble: Trouble) -> Finding | None:
    if trouble.starts_line or not trouble.rest:
        return None
    key = KEY.match(trouble.before)
    value = (trouble.before + trouble.rest)[key.end() :] if key is not None else ""
    hint = in_quotes(value) if value else "put the whole value in quotes"
    return Finding(
        trouble.at, f"`{shorten(trouble.rest)}` follows a value that has ended", hint.replace("it", "all", 1)
    )


def list_behind_key(trouble: Trouble) -> Finding:
    """`commands: - x`."""
    items = trouble.rest.removeprefix("-").strip()
    if trouble.starts_line:
        return Finding(trouble.at, "a `- ` item cannot stand here", "align it with the items above, or remove the `-`")
    hint = f"write `[{shorten(items)}]`, or each `- item` in a line of its own; in quotes it is text"
    return Finding(trouble.at, "a list cannot begin in the line of its key", hint)
