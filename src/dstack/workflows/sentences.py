"""Words for what pydantic says is wrong with a value, which speaks of inputs, dictionaries and strings.

Providers outside this project may use any type of pydantic's, so that every kind of its errors has a sentence here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dstack.sdk.scalars import shown

# What a type wants. The sentence is "expected …, not VALUE".
EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "fraction_type": "a fraction such as `1/3`",
    "fraction_parsing": "a fraction such as `1/3`",
    "complex_type": "a complex number such as `1+2j`",
    "complex_str_parsing": "a complex number such as `1+2j`",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "nothing",
    "string_type": "text",
    "string_unicode": "text",
    "bytes_type": "text",
    "bytes_invalid_encoding": "text in the right encoding",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "deque_type": "a list",
    "iterable_type": "a list",
    "iteration_error": "a list",
    "arguments_type": "a list or `key: value` lines",
    "dict_type": "`key: value` lines",
    "frozen_dict_type": "`key: value` lines",
    "ordered_dict_type": "`key: value` lines",
    "counter_type": "`key: value` lines",
    "mapping_type": "`key: value` lines",
    "model_type": "`key: value` lines",
    "model_attributes_type": "`key: value` lines",
    "dataclass_type": "`key: value` lines",
    "dataclass_exact_type": "`key: value` lines",
    "named_tuple_type": "a list or `key: value` lines",
    "date_type": "a date such as `2026-11-26`",
    "date_parsing": "a date such as `2026-11-26`",
    "date_from_datetime_parsing": "a date such as `2026-11-26`",
    "date_from_datetime_inexact": "a date without a time",
    "date_past": "a date in the past",
    "date_future": "a date in the future",
    "time_type": "a time such as `12:30`",
    "time_parsing": "a time such as `12:30`",
    "datetime_type": "a date and time such as `2026-11-26T12:30`",
    "datetime_parsing": "a date and time such as `2026-11-26T12:30`",
    "datetime_object_invalid": "a date and time such as `2026-11-26T12:30`",
    "datetime_from_date_parsing": "a date and time such as `2026-11-26T12:30`",
    "datetime_past": "a time in the past",
    "datetime_future": "a time in the future",
    "timezone_naive": "a time without a time zone",
    "timezone_aware": "a time with a time zone, such as `12:30Z`",
    "time_delta_type": "a duration such as `PT30S`",
    "time_delta_parsing": "a duration such as `PT30S`",
    "url_type": "a URL",
    "url_parsing": "a URL such as `https://example.org/data`",
    "url_syntax_violation": "a URL such as `https://example.org/data`",
    "uuid_type": "a UUID",
    "uuid_parsing": "a UUID",
}

# Sentences of their own, with pydantic's facts about the error.
TOLD: Mapping[str, str] = {
    "greater_than": "must be greater than {gt}, not {value}",
    "greater_than_equal": "must be at least {ge}, not {value}",
    "less_than": "must be less than {lt}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "multiple_of": "must be a multiple of {multiple_of}, not {value}",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters, not {value}",
    "string_too_long": "must have at most {max_length} characters, not {value}",
    "bytes_too_short": "must have at least {min_length} bytes",
    "bytes_too_long": "must have at most {max_length} bytes",
    "url_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "{value} does not match the pattern `{pattern}`",
    "string_not_ascii": "must hold plain ASCII characters only, not {value}",
    "literal_error": "must be {expected}, not {value}",
    "enum": "must be {expected}, not {value}",
    "url_scheme": "must be a URL that starts with {expected_schemes}, not {value}",
    "uuid_version": "must be a UUID of version {expected_version}",
    "timezone_offset": "must have the time zone offset {tz_expected}",
    "decimal_max_digits": "must have at most {max_digits} digits, not {value}",
    "decimal_max_places": "must have at most {decimal_places} digits after the point, not {value}",
    "decimal_whole_digits": "must have at most {whole_digits} digits before the point, not {value}",
    "union_tag_invalid": "`{tag}` is not known here; one of {expected_tags}",
    "union_tag_not_found": "a key that says of which kind this is is missing: {discriminator}",
    "set_item_not_hashable": "a list or mapping cannot stand here",
    "invalid_key": "the key must be text",
    "json_invalid": "is not valid JSON: {error}",
    "json_type": "must be JSON within quotes",
    "recursion_loop": "holds itself",
    "recursion_depth_exceeded": "is nested too deeply",
    "multiple_argument_values": "is given twice",
    "unexpected_keyword_argument": "is not known here",
    "unexpected_positional_argument": "is one too many",
    "missing_argument": "is missing",
    "missing_keyword_only_argument": "is missing",
    "missing_positional_only_argument": "is missing",
}

_RAISED = {"value_error": "Value error, ", "assertion_error": "Assertion failed, "}
"""What a validator of a provider's own raised: its words without pydantic's before them."""
_COLLECTIONS = ("List", "Tuple", "Set", "Frozenset", "Dictionary", "Deque")


def sentence(kind: str, message: str, facts: Mapping[str, Any], value: object) -> str:
    """What is wrong with `value`, for an error of type `kind` whose own words are `message`."""
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}, not {shown(value)}"
    if kind in TOLD:
        return TOLD[kind].format(**{key: _plain(fact) for key, fact in facts.items()}, value=shown(value))
    if kind == "too_short":
        least = facts.get("min_length", 1)
        return "must not be empty" if least == 1 else f"must have at least {least} items"
    if kind in _RAISED:
        return message.removeprefix(_RAISED[kind]) or "is not allowed here"
    return f"{shown(value)} cannot stand here"


def _plain(fact: object) -> object:
    """pydantic quotes what it lists with `'`; here that is done with backticks."""
    return fact.replace("'", "`") if isinstance(fact, str) else fact
