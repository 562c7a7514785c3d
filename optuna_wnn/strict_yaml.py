"""YAML as configurations need it: plain values only, no key twice, and nothing that explodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import Final

import yaml

from optuna_wnn.errors import InputError


_MOST_BYTES: Final = 1 << 20
_MOST_VALUES: Final = 10_000  # with what stands behind every alias counted again
_MOST_INTEGER_BITS: Final = 256  # Python refuses to print numbers of many thousands
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which silently keeps the last of two equal keys; this one refuses."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen and key.tag != _MERGE:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice; remove one",
                    problem_mark=key.start_mark,
                )
            seen.add(name)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # what '<<' merges; a few lines can name billions of keys
        if len(node.value) > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"'<<' merges over {_MOST_VALUES} keys", problem_mark=node.start_mark
            )


def read_yaml(path: Path) -> Any:
    """Return the document in a YAML file: mappings with text keys, lists, text, numbers, null.

    Raises:
        InputError: If the file cannot be read, is too large, or is no such YAML; the line names
            the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(
                f"{path}: it is over {_MOST_BYTES >> 20} MiB, which no configuration needs; "
                "check the path"
            )
        return parse_yaml(content.decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {yaml_reason(error)}") from error


def parse_yaml(text: str) -> Any:
    """Return the document in a YAML text; what stands behind an alias is copied.

    Raises:
        yaml.YAMLError: If it is no YAML, or has other values than :func:`read_yaml` takes.
    """
    try:
        return _plain(yaml.load(text, _Loader), "", iter(range(_MOST_VALUES)))
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (AttributeError, TypeError, ValueError) as error:  # a date of month 13, !!int x
        raise yaml.YAMLError(f"a value is not what it looks like ({error}); quote it") from error


def _plain(value: Any, path: str, budget: Iterator[int]) -> Any:
    """Return a copy of a plain value; each value in it takes one from the budget."""
    if next(budget, None) is None:
        raise yaml.YAMLError(f"it has over {_MOST_VALUES} values; remove aliases such as *name")
    inner = f"{path}." if path else ""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"{inner}{key!r}: this key is no text; quote it")
        return {key: _plain(v, f"{inner}{key}", budget) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, f"{inner}{i}", budget) for i, v in enumerate(value)]
    if isinstance(value, int) and value.bit_length() > _MOST_INTEGER_BITS:
        raise yaml.YAMLError(f"{path}: this number is too large; lower it")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value).__name__
    raise yaml.YAMLError(f"{path}: a {kind} is no text, number or list; quote it")


def yaml_reason(error: yaml.YAMLError) -> str:
    """Return in one line what is wrong with a YAML text, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{where}{problem}"
