"""What can be configured: every key as a commented YAML file, a JSON schema, and a table.

All three are made from the models in :mod:`optuna_wnn.config` and from their docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Final

from pydantic import BaseModel

from optuna_wnn.config import DEFAULT_PHASES
from optuna_wnn.config import PhaseSection
from optuna_wnn.config import RunConfig
from optuna_wnn.config import SearchSection
from optuna_wnn.sweep_config import SweepConfig
from optuna_wnn.tasks import OF_EVERY_KIND
from optuna_wnn.tasks import TASKS
from optuna_wnn.tasks import load_task
from optuna_wnn.tasks import options_of
from optuna_wnn.validation import fields_of
from optuna_wnn.validation import section_of


_WIDTH: Final = 96
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


# -- descriptions --------------------------------------------------------------------------------


def descriptions(documented: Any) -> dict[str, str]:
    """Return what the docstring of a class or a function says of each attribute or argument."""
    text = inspect.getdoc(documented) or ""
    found = re.search(r"^(?:Attributes|Args):\n((?:[ ]{4}.*\n?|\n)*)", text, re.MULTILINE)
    entries = re.split(r"^    (?=\w)", found.group(1), flags=re.MULTILINE) if found else []
    pairs = (entry.partition(":") for entry in entries if entry.strip())
    return {name.strip(): _plain(told) for name, _, told in pairs}


def summary(documented: Any) -> str:
    """Return what stands before the attributes in the docstring of a class."""
    text = inspect.getdoc(documented) or ""
    return _plain(re.split(r"^(?:Attributes|Args|Raises):", text, flags=re.MULTILINE)[0])


def _plain(text: str) -> str:
    """Return a docstring's text without its markup, in one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return " ".join(text.replace("``", "").split())


# -- the JSON schema -----------------------------------------------------------------------------


def json_schema(model: type[BaseModel] = RunConfig) -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors.

    Args:
        model: The model of the file.
    """
    schema = model.model_json_schema()
    sections = {section.__name__: section for section in _sections(model)}
    for name, section in sections.items():
        part = schema if section is model else schema["$defs"][name]
        part["description"] = summary(section)
        part.setdefault("additionalProperties", False)
        told = descriptions(section)
        for key, field in part["properties"].items():
            if key in told:
                field["description"] = told[key]
            if fields_of(section_of(section, key) or int):
                field.pop("default", None)  # what is inside has defaults of its own
            if section is PhaseSection and key in SearchSection.model_fields:
                field.pop("default", None)  # it is what ``search`` says
    if model is RunConfig:
        schema["$defs"]["TaskSection"] = {"oneOf": [_task_schema(kind) for kind in TASKS]}
    return {"$schema": _DIALECT, **_without_titles(schema)}


def sweep_schema() -> dict[str, Any]:
    """Return the JSON schema of a sweep's file: its base is a path, or a configuration."""
    sweep, run = json_schema(SweepConfig), json_schema()
    base = {key: run[key] for key in ("type", "properties", "additionalProperties")}
    told = {"description": sweep["properties"]["base"]["description"]}
    sweep["properties"]["base"] = {**told, "anyOf": [{"type": "string"}, base]}
    choices = {"type": "array", "minItems": 1}
    axis = {"anyOf": [sweep["$defs"]["Axis"], choices]}
    return {**sweep, "$defs": {**run["$defs"], **sweep["$defs"], "Axis": axis}}


def _sections(model: type[Any]) -> Iterator[type[Any]]:
    """Yield a model, and all that are inside it."""
    yield model
    for name in fields_of(model):
        inner = section_of(model, name)
        if inner is not None:
            yield from _sections(inner)


def _task_schema(kind: str) -> dict[str, Any]:
    """Return what a task of a kind is made of; the kind itself checks the values."""
    told = {**descriptions(load_task), **descriptions(TASKS[kind])}
    properties: dict[str, Any] = {"kind": {"const": kind}}
    required = ["kind"]
    for name, parameter in options_of(kind).items():
        properties[name] = {"description": told.get(name, "")}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            properties[name]["default"] = parameter.default
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _without_titles(schema: Any) -> Any:
    """Return a schema without the titles that only repeat the names of keys."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


# -- all keys ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        path: Where it stands, with dots: ``search.trials``.
        values: What it takes, in words.
        default: Its default as YAML, or nothing if it has none.
        description: What it is, and in what unit.
    """

    path: str
    values: str
    default: str
    description: str


def keys(model: type[BaseModel] = RunConfig) -> list[Key]:
    """Return all keys of a configuration, in the order of the model."""
    schema = json_schema(model)
    return list(_keys(schema, schema, ""))


def _keys(schema: Mapping[str, Any], part: Mapping[str, Any], path: str) -> Iterator[Key]:
    for name, field in part["properties"].items():
        inner = _resolved(schema, field)
        if name == "task":
            yield from _task_keys(inner)
        elif name == "phases":
            for key in _keys(schema, _resolved(schema, field["items"]), "phases.N."):
                if key.path.rpartition(".")[2] not in SearchSection.model_fields:
                    yield key
        elif "properties" in inner and "enum" not in inner:
            yield from _keys(schema, inner, f"{path}{name}.")
        else:
            default = _yaml(field["default"]) if "default" in field else ""
            told = field.get("description", "")
            yield Key(f"{path}{name}", _values(schema, field), default, told)


def _task_keys(part: Mapping[str, Any]) -> Iterator[Key]:
    kinds = [variant["properties"]["kind"]["const"] for variant in part["oneOf"]]
    yield Key("task.kind", " | ".join(kinds), "", "What is learnt.")
    for kind, variant in zip(kinds, part["oneOf"], strict=True):
        for name, field in variant["properties"].items():
            if name != "kind" and name not in OF_EVERY_KIND:
                default = _yaml(field["default"]) if "default" in field else ""
                told = f"{field['description']} (of `kind: {kind}`)"
                yield Key(f"task.{name}", "", default, told)
    for name in OF_EVERY_KIND:
        field = part["oneOf"][0]["properties"][name]
        yield Key(f"task.{name}", "", _yaml(field["default"]), field["description"])


def _resolved(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a field holds: behind a reference, and behind "or nothing"."""
    options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return _resolved(schema, options[0])
    if "$ref" in field:
        target: Mapping[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
        return target
    return field


def _values(schema: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """Return in words what a field takes."""
    if "anyOf" in field:
        return " or ".join(_values(schema, option) for option in field["anyOf"])
    field = _resolved(schema, field)
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if "prefixItems" in field:
        return f"[{', '.join(_values(schema, item) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        pair = f"[{field.get('description')}]"
        return pair if "maxItems" in field else f"list of {_values(schema, field['items'])}"
    kind = {"integer": "whole number", "string": "text", "object": "mapping"}
    words = kind.get(field.get("type", ""), field.get("type", "any"))
    if "exclusiveMaximum" in field:
        return f"{words} ≥ {field['minimum']}, < {field['exclusiveMaximum']}"
    if "minimum" in field and words == "number" and "maximum" in field:
        return f"{words} in [{field['minimum']:g}, {field['maximum']:g}]"
    return f"{words} ≥ {field['minimum']:g}" if "minimum" in field else words


def _yaml(value: Any) -> str:
    """Return a value in one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    text = json.dumps(value)
    return text.strip('"') if isinstance(value, str) and re.match(r"[\w./:-]+$", value) else text


def key_table(model: type[BaseModel] = RunConfig) -> str:
    """Return all keys of a configuration as a Markdown table."""
    lines = ["| key | takes | default | what it is |", "| --- | --- | --- | --- |"]
    for key in keys(model):
        default = f"`{key.default}`" if key.default else ""
        cells = (f"`{key.path}`", key.values, default, key.description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


# -- the commented file --------------------------------------------------------------------------


def template(name: str, schema_file: str | None = None) -> str:
    """Return a configuration file with every key, its default and what it is.

    Args:
        name: The run's name.
        schema_file: Name of a file beside it that holds the JSON schema, or ``None``.
    """
    schema = json_schema()
    first = [f"# yaml-language-server: $schema={schema_file}"] if schema_file else []
    lines = [
        *first,
        "# A run of optuna-wnn. All keys are here, with their defaults: delete what you do not",
        "# change. Only name and task.kind are needed.",
    ]
    for key, field in schema["properties"].items():
        inner = _resolved(schema, field)
        lines.append("")
        if key == "task":
            lines += [*_comment(field["description"], ""), "task:", *_task_lines(inner)]
        elif key == "phases":
            lines += [*_comment(field["description"], ""), *_phase_lines(schema, field)]
        elif "properties" in inner:
            section = [f"{key}:", *_section_lines(schema, inner)]
            optional = field.get("default", "") is None or "anyOf" in field
            lines += _comment(field["description"], "")
            lines += [f"# {line}" for line in section] if optional else section
        else:
            value = name if key == "name" else _yaml(field.get("default"))
            lines += [*_told(schema, field, ""), f"{key}: {value}"]
    return "\n".join(lines) + "\n"


def _section_lines(schema: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, field in part["properties"].items():
        value = _yaml(field["default"]) if "default" in field else _example(field)
        lines += [*_told(schema, field, "  "), f"  {key}: {value}"]
    return lines


def _example(field: Mapping[str, Any]) -> str:
    """Return a value for a key that has no default."""
    return f"{field.get('maximum', 1)}"


def _task_lines(part: Mapping[str, Any]) -> list[str]:
    """Return a task of the first kind, and what the other kinds take as comments."""
    first, *others = part["oneOf"]
    lines = [f"  kind: {first['properties']['kind']['const']}", *_option_lines(first, "  ")]
    for variant in others:
        commented = [
            f"kind: {variant['properties']['kind']['const']}",
            *_option_lines(variant, ""),
        ]
        lines += ["  # or:", *(f"  # {line}" for line in commented)]
    return lines


def _option_lines(variant: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, field in variant["properties"].items():
        if key == "kind":
            continue
        value = _yaml(field["default"]) if "default" in field else f"my.{key}"
        lines += [*_comment(field["description"], indent), f"{indent}{key}: {value}"]
    return lines


def _phase_lines(schema: Mapping[str, Any], field: Mapping[str, Any]) -> list[str]:
    properties = _resolved(schema, field["items"])["properties"]
    own = [key for key in properties if key not in SearchSection.model_fields]
    lines = [
        line for key in own for line in _comment(f"{key}: {properties[key]['description']}", "")
    ]
    lines += ["# A phase may have any key of search as well.", "phases:"]
    lines += [
        f"  - {{{', '.join(f'{key}: {value}' for key, value in phase.items())}}}"
        for phase in DEFAULT_PHASES
    ]
    return lines


def _told(schema: Mapping[str, Any], field: Mapping[str, Any], indent: str) -> list[str]:
    """Return as comments what a key is and takes."""
    values = _values(schema, field)
    return _comment(f"{field.get('description', '')} ({values})", indent)


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent))]


def with_key_table(page: str, model: type[BaseModel] = RunConfig) -> str:
    """Return a Markdown page with the table of all keys of a model between its two marks."""
    start, end = page.index("<!-- keys"), page.index("<!-- end of keys")
    mark = page[start : page.index("\n", start) + 1]
    return f"{page[:start]}{mark}\n{key_table(model)}\n{page[end:]}"


PAGES: Final[dict[str, type[BaseModel]]] = {
    "reference/configuration.md": RunConfig,
    "how-to/sweeps.md": SweepConfig,
}

if __name__ == "__main__":
    for _name, _model in PAGES.items():
        _page = Path(sys.argv[1], _name)
        _page.write_text(with_key_table(_page.read_text("utf-8"), _model), "utf-8")
