"""Values that a JSON Schema of ours describes: a hypothesis strategy for the part of JSON Schema that is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
Strategy = st.SearchStrategy[Any]

# Lines break where YAML breaks them, so these would not come back from every style; and nobody writes them.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8).filter(lambda t: "${{" not in t)
_NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
_PLAIN: Mapping[str, Strategy] = {
    "string": texts,
    "integer": st.integers(-(10**9), 10**9),
    "number": _NUMBERS,
    "boolean": st.booleans(),
    "null": st.none(),
}


class FromSchema:
    """`special` are strategies for definitions, by name, and for patterns, by their text."""

    def __init__(self, root: Schema, special: Mapping[str, Strategy]) -> None:
        self._definitions: Mapping[str, Schema] = root["$defs"]
        self._special = special

    def named(self, name: str, keys: Mapping[str, Strategy]) -> Strategy:
        """Values of a definition, a mapping, with strategies of its own for some keys."""
        return self._object(self._definitions[name], keys)

    def of(self, schema: Schema) -> Strategy:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._special[name] if name in self._special else self.of(self._definitions[name])
        if "anyOf" in schema and "properties" not in schema:
            # An expression may stand everywhere; what it is filled in with is another test's.
            choices = [choice for choice in schema["anyOf"] if choice.get("$ref", "") != "#/$defs/expression"]
            return st.one_of([self.of(choice) for choice in choices])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if "const" in schema:
            return st.just(schema["const"])
        kinds = schema.get("type", list(_PLAIN))
        return st.one_of([self._kind(schema, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)])

    def _kind(self, schema: Schema, kind: str) -> Strategy:
        if kind == "object":
            return self._object(schema, {})
        if kind == "array":
            return st.lists(self.of(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
        if kind == "string" and "pattern" in schema:
            return self._matching(schema["pattern"])
        if kind in ("integer", "number") and "minimum" in schema:
            most = schema["maximum"] if "maximum" in schema else schema["exclusiveMaximum"] - 1
            return st.integers(int(schema["minimum"]), int(most))
        return _PLAIN[kind]

    def _matching(self, pattern: str) -> Strategy:
        if pattern in self._special:
            return self._special[pattern]
        # `$` is the very end in JSON Schema; in Python a line break may follow.
        exact = f"{pattern.removesuffix('$')}\\Z" if pattern.endswith("$") else pattern
        return st.from_regex(exact, alphabet=st.characters(max_codepoint=126, exclude_categories=["Cc"]))

    def _object(self, schema: Schema, keys: Mapping[str, Strategy]) -> Strategy:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        if "anyOf" in schema:  # which of several keys there must be
            rest = {key: value for key, value in schema.items() if key not in ("anyOf", "required")}
            ways = [[*schema.get("required", ()), *way["required"]] for way in schema["anyOf"]]
            found = [self._object({**rest, "required": way}, keys) for way in ways]
            return st.one_of([each.filter(has_all(way)) for each, way in zip(found, ways, strict=True)])
        required = [key for key in schema.get("required", ()) if key not in keys]
        optional = [key for key in properties if key not in required and key not in keys]
        fixed = st.fixed_dictionaries(
            {**{key: self.of(properties[key]) for key in required}, **keys},
            optional={key: self.of(properties[key]) for key in optional},
        )
        if not isinstance(schema.get("additionalProperties"), dict):
            return fixed
        names = self._matching(schema["propertyNames"]["pattern"])
        return st.dictionaries(names, self.of(schema["additionalProperties"]), max_size=3)


def has_all(names: Sequence[str]) -> Callable[[Mapping[str, Any]], bool]:
    return lambda mapping: all(mapping.get(name) is not None for name in names)
