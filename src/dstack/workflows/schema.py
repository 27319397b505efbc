"""JSON Schemas (draft 2020-12) of the files in `.dstack`, for editors and other programs.

They are made of what providers' Configs declare. What the loader accepts, they accept; what goes beyond types and
names of keys (do the workflows that others depend on exist?) is the loader's alone. An expression may stand wherever a
value may.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dstack.sdk.config import Code
from dstack.sdk.provider import Provider
from dstack.workflows.declarations import TYPES

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_REF = "#/$defs/{model}"
_PROVIDER = "provider: {}"
_SCALARS = ("string", "integer", "number", "boolean", "null")
_SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}
_EXPRESSION: Schema = {
    "type": "string",
    "pattern": r"\$\{\{",
    "description": "An expression such as `${{ seed }}`, alone or within text.",
}
_NAME = r"^\w[\w.-]{0,99}$"
_VARIABLE_NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"
_ELSEWHERE = "@|^[^/]+/.+:"
"""Names of providers that another branch or repository has."""
# A workflow without a provider is read by its keys; see `provider_names`.
_IMPLIED = (("docker", "image"), ("bash", "commands"))


def workflows_schema(providers: Mapping[str, type[Provider]], own: Collection[str] = ()) -> Schema:
    """Of `workflows.yaml`, of the files in `workflows/` and of files that are included.

    `own` are the providers that the repository names: their workflows may have any keys.
    """
    definitions = _definitions({name: provider.Config for name, provider in providers.items()})
    definitions["expression"] = _EXPRESSION
    definitions["provider"] = _provider([*providers, *sorted(set(own) - providers.keys())])
    definitions["workflow"] = _workflow(list(providers))
    workflows: Schema = {
        "description": "The workflows, each with a name of its own.",
        "type": ["array", "null"],
        "items": {"$ref": "#/$defs/workflow"},
    }
    paths: Schema = {"type": "string", "pattern": r"\.ya?ml$"}
    include: Schema = {
        "description": "Other workflow files: paths from the repository's folder.",
        "anyOf": [paths, {"type": "array", "items": paths}],
    }
    code: Schema = {"$ref": "#/$defs/Code", "description": "Which files the runs of all workflows get."}
    return {
        "$schema": DRAFT,
        "title": "Workflows of dstack",
        "type": "object",
        "properties": {"workflows": workflows, "include": include, "code": code},
        "patternProperties": {"^x-": {"description": "Anything, for anchors to name."}},
        "additionalProperties": False,
        "anyOf": [{"required": ["workflows"]}, {"required": ["include"]}],
        "$defs": dict(sorted(definitions.items())),
    }


def variables_schema() -> Schema:
    """Of `variables.yaml`."""
    number: Schema = {"type": "number"}
    declaration: Schema = {
        "description": "What the variable may be. Without `default` it has to be given on the command line.",
        "type": "object",
        "properties": {
            "default": {**_SCALAR, "description": "The value where the command line gives none."},
            "type": {"enum": [*TYPES, None], "description": "What values have to be."},
            "choices": {"type": "array", "items": _SCALAR, "description": "The only values that are allowed."},
            "min": {**number, "description": "The least number that is allowed."},
            "max": {**number, "description": "The greatest number that is allowed."},
            "help": {"type": ["string", "number", "boolean", "null"], "description": "What it is for, for `--help`."},
        },
        "additionalProperties": False,
    }
    section: Schema = {
        "type": ["object", "null"],
        "propertyNames": {"pattern": _VARIABLE_NAME},
        "additionalProperties": {"anyOf": [_SCALAR, {"$ref": "#/$defs/declaration"}]},
    }
    sections: Schema = {
        "description": "Variables for every workflow (`global`) and for single ones (their names).",
        "type": ["object", "null"],
        "properties": {"global": {"$ref": "#/$defs/section", "description": "Variables of every workflow."}},
        "additionalProperties": {"$ref": "#/$defs/section"},
    }
    return {
        "$schema": DRAFT,
        "title": "Variables of dstack's workflows",
        "type": "object",
        "properties": {"variables": sections},
        "required": ["variables"],
        "additionalProperties": False,
        "$defs": {"declaration": declaration, "section": section},
    }


def providers_schema() -> Schema:
    """Of `providers.yaml`, which names programs of the repository that make jobs of workflows."""
    text: Schema = {"type": "string", "minLength": 1}
    provider: Schema = {
        "type": "object",
        "properties": {
            "name": {**text, "pattern": _NAME, "description": "What workflows call it: `provider: NAME`."},
            "image": {
                **text,
                "description": "The image of the container that it runs in.",
                "examples": ["python:3.11"],
            },
            "commands": {
                "description": "What runs it; it reads the workflow from `workflow.yaml`.",
                "anyOf": [text, {"type": "array", "items": text, "minItems": 1}],
            },
        },
        "required": ["name", "commands"],
        "additionalProperties": False,
    }
    return {
        "$schema": DRAFT,
        "title": "Providers of a repository",
        "type": "object",
        "properties": {"providers": {"type": ["array", "null"], "items": provider}},
        "required": ["providers"],
        "additionalProperties": False,
    }


def _definitions(configs: Mapping[str, type[BaseModel]]) -> dict[str, Schema]:
    """The models that Configs are made of, and each Config under its provider's name."""
    distinct = dict.fromkeys([*configs.values(), Code])
    schemas, shared = models_json_schema([(model, "validation") for model in distinct], ref_template=_REF)
    definitions = {name: _tidied(schema) for name, schema in cast("dict[str, Schema]", shared["$defs"]).items()}
    for name, config in configs.items():
        own = definitions[schemas[config, "validation"]["$ref"].rpartition("/")[2]]
        properties = {**own["properties"], "provider": {"$ref": "#/$defs/provider"}}
        for key, others in _spellings(config):
            properties |= dict.fromkeys(others, properties[key])
        properties["name"] = {**properties["name"], "pattern": _NAME}
        required = [key for key in own.get("required", ()) if key != "provider"]
        definitions[_PROVIDER.format(name)] = {**own, "properties": properties, "required": required}
    for config in configs.values():
        definitions.pop(schemas[config, "validation"]["$ref"].rpartition("/")[2], None)
    return definitions


def _spellings(config: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """Keys that may be written in several ways: the first, and the others."""
    for field in config.model_fields.values():
        choices = getattr(field.validation_alias, "choices", None)
        if choices:
            first, *others = (str(choice) for choice in choices)
            yield first, others


def _provider(names: list[str]) -> Schema:
    text: Schema = {"type": "string", "minLength": 1}
    return {
        "description": "The program that makes jobs of the workflow.",
        "anyOf": [
            {"enum": names},
            {"type": "string", "pattern": _ELSEWHERE},
            {"$ref": "#/$defs/expression"},
            {
                "type": "object",
                "properties": {"repo": text, "name": text},
                "required": ["repo", "name"],
                "additionalProperties": False,
            },
        ],
    }


def _workflow(names: list[str]) -> Schema:
    """Which keys a workflow may have, by its provider."""
    cases: list[Schema] = [
        {
            "if": {"properties": {"provider": {"const": name}}, "required": ["provider"]},
            "then": {"$ref": f"#/$defs/{_PROVIDER.format(name)}"},
        }
        for name in names
    ]
    without: Schema = {"required": ["provider"]}
    for name, key in reversed(_IMPLIED):
        if name in names:
            reference = {"$ref": f"#/$defs/{_PROVIDER.format(name)}"}
            without = {"if": {"required": [key]}, "then": reference, "else": without}
    cases.append({"if": {"not": {"required": ["provider"]}}, "then": without})
    return {
        "type": "object",
        "properties": {
            "name": {"type": ["string", "number", "boolean"], "pattern": _NAME, "not": {"const": "global"}},
            "provider": {"$ref": "#/$defs/provider"},
        },
        "required": ["name"],
        "allOf": cases,
    }


def _tidied(schema: Schema) -> Schema:
    """A schema of pydantic's as people read it, with expressions where a value may stand."""
    return {key: _part(key, part) for key, part in schema.items() if key not in ("title", "default")}


def _part(key: str, part: Any) -> Any:
    if key in ("properties", "patternProperties"):
        return {name: _value(schema) for name, schema in cast("dict[str, Schema]", part).items()}
    if key in ("items", "additionalProperties") and isinstance(part, dict):
        return _value(cast(Schema, part))
    if key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        return [_tidied(schema) for schema in cast("list[Schema]", part)]
    if key == "examples":
        return [yaml.load(text, yaml.CSafeLoader) if isinstance(text, str) else text for text in part]
    return part


def _value(schema: Schema) -> Schema:
    """What may stand at a key or as an item: also an expression, unless any text may."""
    tidied = _tidied(schema)
    outer = {key: part for key, part in tidied.items() if key in ("description", "examples", "deprecated")}
    inner = {key: part for key, part in tidied.items() if key not in outer}
    choices = cast("list[Schema]", inner["anyOf"]) if inner.keys() == {"anyOf"} else [inner]
    merged = _merged(choices)
    if not any("string" in _types(choice) and choice.keys() == {"type"} for choice in merged):
        merged.append({"$ref": "#/$defs/expression"})
    return {**outer, **(merged[0] if len(merged) == 1 else {"anyOf": merged})}


def _merged(choices: list[Schema]) -> list[Schema]:
    """`choices` with all plain scalar types in one."""
    types: list[str] = []
    others: list[Schema] = []
    for choice in choices:
        if choice.keys() == {"type"} and set(_types(choice)) <= set(_SCALARS):
            types += _types(choice)
        elif choice not in others:
            others.append(choice)
    if "number" in types:
        types = [kind for kind in types if kind != "integer"]
    plain = list(dict.fromkeys(types))
    return [{"type": plain[0] if len(plain) == 1 else plain}, *others] if plain else others


def _types(schema: Schema) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)
