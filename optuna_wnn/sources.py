"""Where the values of a configuration come from: its file, the environment, the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Final

import yaml

from optuna_wnn.config import DEFAULT_PHASES
from optuna_wnn.config import RunConfig
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.strict_yaml import parse_yaml
from optuna_wnn.strict_yaml import read_yaml
from optuna_wnn.strict_yaml import yaml_reason
from optuna_wnn.validation import fields_of


PREFIX: Final = "OPTUNA_WNN__"  # of environment variables: OPTUNA_WNN__SEARCH__TRIALS=50
_SET: Final = "--set "


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration in a YAML file, as the environment and the command line have it.

    Args:
        path: The file.
        overrides: ``key=value`` each: a key with dots for what is inside, a value in YAML. They
            overrule the environment.
        environment: Its variables named ``OPTUNA_WNN__SEARCH__TRIALS`` and the like overrule
            the file; values in YAML, too.
        options: Values of options of the command line that are keys as well, such as ``--name``;
            they overrule everything else.

    Raises:
        InputError: If the file cannot be read, is no YAML, or something wrong is said in any
            place; the line names the place, the path of the key, and the remedy.
    """
    document = read_mapping(Path(path))
    sources = override(document, str(path), overrides, environment or {}, options or {})
    try:
        return parse_config(document).with_sources(sources)
    except InputError as error:
        raise InputError(blamed(sources, str(path), error)) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: If the file cannot be read, is no YAML, or holds something else.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: a mapping of keys is needed, such as 'name: my-run'")
    return document


def override(
    document: dict[str, Any],
    file: str,
    overrides: Sequence[str],
    environment: Mapping[str, str],
    options: Mapping[str, Any],
) -> dict[str, str]:
    """Put what the environment and the command line say into a file's document.

    Returns:
        For every key that is set, what set it: the file, a variable, ``--set KEY`` or
        ``--OPTION``.

    Raises:
        InputError: If an override is no YAML, or its key leads nowhere.
    """
    sources = dict.fromkeys(leaves(document), file)
    variables = [
        (name, name.removeprefix(PREFIX).lower().replace("__", "."), environment[name])
        for name in sorted(environment)
        if name.startswith(PREFIX)
    ]
    words = [(_SET + key, key, text) for key, text in map(_split, overrides)]
    for shown, key, text in [*variables, *words]:
        told = _SET if shown.startswith(_SET) else f"{shown}: "
        try:
            put(document, key, _value(key, text))
        except InputError as error:
            raise InputError(f"{told}{error}") from error
        inside = [known for known in sources if known.startswith(f"{key}.")]
        for known in inside:
            del sources[known]
        sources[key] = shown
    for key, value in options.items():
        document[key] = value
        sources[key] = f"--{key}"
    return sources


def blamed(sources: Mapping[str, str], file: str, error: InputError) -> str:
    """Return a line about a wrong key that begins with what set the key.

    Args:
        sources: What set which key.
        file: What is to blame for keys that nothing set.
        error: Its text begins with the dotted path of the key, or with ``storage``.
    """
    path = re.split(r"[: ]", str(error), maxsplit=1)[0]
    shown = source_of(sources, path) or file
    if shown.startswith(_SET) and shown == _SET + path:
        return f"{_SET}{error}"
    return f"{shown}: {error}"


def source_of(sources: Mapping[str, str], path: str) -> str | None:
    """Return what set a key, or something that it is inside of, or that is inside of it."""
    for known in sorted(sources, key=len, reverse=True):
        if known == path or path.startswith(f"{known}.") or known.startswith(f"{path}."):
            return sources[known]
    return None


def described(source: str | None) -> str:
    """Return in words what set a key."""
    if source is None:
        return "default"
    if source.startswith("--"):
        return f"command line: {source}"
    if source.startswith(PREFIX):
        return f"environment: {source}"
    return f"file: {source}"


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the single values, and lists of such, in a document."""
    inner = f"{path}." if path else ""
    if isinstance(value, dict) and (value or not path):
        for key, below in value.items():
            yield from leaves(below, f"{inner}{key}")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, below in enumerate(value):
            yield from leaves(below, f"{inner}{i}")
    else:
        yield path


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set what is at a dotted path of a document.

    Lists that the document leaves out, but whose entries the path names, are filled in with
    their defaults.

    Raises:
        InputError: If the path leads nowhere.
    """
    names = key.split(".")
    if not all(names):
        raise InputError(f"{key}: give a key with dots between its parts, such as search.trials")
    place: Any = document
    for i, name in enumerate(names):
        is_last = i == len(names) - 1
        if isinstance(place, list):
            if not name.isdecimal() or int(name) >= len(place):
                where = ".".join(names[: i + 1])
                raise InputError(f"{where}: there are {len(place)} of them, from 0")
            if is_last:
                place[int(name)] = value
            place = place[int(name)]
        elif isinstance(place, dict):
            if is_last:
                place[name] = value
            elif place.get(name) is None:
                place[name] = _default_list(names[: i + 1], names[i + 1])
            place = place[name]
        else:
            where = ".".join(names[:i])
            raise InputError(f"{key}: {where} is a single value and has no {name!r}")


def _default_list(names: list[str], entry: str) -> Any:
    """Return the default of a key if it is a list that an entry is named of, or a mapping."""
    if names == ["phases"]:
        return [dict(phase) for phase in DEFAULT_PHASES]
    if entry.isdecimal() and len(names) == 2:
        field = RunConfig.model_fields.get(names[0])
        section = None if field is None else field.default
        if names[1] in fields_of(type(section)):
            default = getattr(section, names[1])
            if isinstance(default, tuple):
                return list(copy.deepcopy(default))
    return {}


def _split(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise InputError(f"{_SET}{text}: give it as key=value, such as --set seed=1")
    return key, value


def _value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{key}: not valid YAML: {yaml_reason(error)}") from error


def settings(config: RunConfig) -> list[tuple[str, Any, str]]:
    """Return key, value and origin of everything that a run is made of.

    Of a phase, only what it does differently from ``search`` is listed. Where the studies live is
    left out.
    """
    document = config.model_dump(mode="json", exclude={"name", "storage", "phases"})
    document["task"] = {"kind": config.task.kind, **config.task.options}
    rows = [
        (path, at(document, path), source_of(config.sources, path)) for path in leaves(document)
    ]
    common = config.search.model_dump(mode="json")
    for i, phase in enumerate(config.phases):
        for name, value in phase.model_dump(mode="json").items():
            path = f"phases.{i}.{name}"
            if path in config.sources or name not in common or value != common[name]:
                rows.append((path, value, source_of(config.sources, path)))
    return [(path, value, described(source)) for path, value, source in rows]


def at(document: Any, path: str) -> Any:
    """Return what is at a dotted path of a document."""
    for name in path.split("."):
        document = document[int(name) if isinstance(document, list) else name]
    return document
