"""Reading a sweep's file, and finding what is wrong in it before anything is stored."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Final

from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.sources import PREFIX
from optuna_wnn.sources import blamed
from optuna_wnn.sources import override
from optuna_wnn.sources import read_mapping
from optuna_wnn.sweep_config import MOST
from optuna_wnn.sweep_config import Definition
from optuna_wnn.sweep_config import Overrides
from optuna_wnn.sweep_config import SweepConfig
from optuna_wnn.tasks import check_options
from optuna_wnn.validation import Mismatch
from optuna_wnn.validation import parse_as


_OWN: Final = ("name", "storage")  # keys of a base that the sweep has itself


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Definition:
    """Return the sweep in a YAML file, checked as far as it can be without loading data.

    Args:
        path: The file.
        overrides: As of :func:`~optuna_wnn.sources.load_config`; of the base configuration.
        environment: Likewise.
        options: ``name`` and ``storage`` of the sweep.

    Raises:
        InputError: If something in it is wrong; the line names the place.
    """
    path = Path(path)
    document = read_mapping(path)
    own = [text for text in overrides if text.partition("=")[0] in _OWN]
    variables = dict(environment or {})
    names = [PREFIX + key.upper() for key in _OWN]
    own_variables = {name: variables.pop(name) for name in names if name in variables}
    sources = override(document, str(path), own, own_variables, options or {})
    try:
        config = parse_as(SweepConfig, document)
    except InputError as error:
        raise InputError(blamed(sources, str(path), error)) from error
    others = [text for text in overrides if text not in own]
    base, storage = _base(path, config, others, variables)
    definition = Definition(config, base, config.storage or storage)
    try:
        _check(definition)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return definition


def _base(
    path: Path, config: SweepConfig, overrides: Sequence[str], environment: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """Return the document of the base configuration, and its storage."""
    if isinstance(config.base, str):
        file = str(path.parent / config.base)
        try:
            document = read_mapping(path.parent / config.base)
        except InputError as error:
            raise InputError(f"{path}: base: {error}") from error
    else:
        file, document = f"{path}: base", copy.deepcopy(config.base)
    document["name"] = config.name
    sources = override(document, file, overrides, environment, {})
    try:
        base = parse_config(document)
        check_options(base.task.kind, base.task.options)
    except InputError as error:
        raise InputError(blamed(sources, file, error)) from error
    return document, base.storage


# -- checking ------------------------------------------------------------------------------------


def _check(definition: Definition) -> None:
    """Check the overrides of a sweep; what only does not go together is left to its run."""
    config = definition.config
    if config.grid is not None:
        n = math.prod(map(len, config.grid.values()))
        if n > MOST:
            raise InputError(
                f"grid: it has {n:,} combinations, and {MOST:,} are the most; remove values, or "
                "choose method: random"
            )
    elif config.entries is not None and len(config.entries) > MOST:
        raise InputError(f"list: {len(config.entries):,} runs are above {MOST:,}; remove some")
    doubtful: dict[tuple[str, str], tuple[str, str]] = {}
    for place, key, value in _values(config):
        if key.partition(".")[0] in _OWN:
            raise InputError(f"{place}: the sweep has one {key}; set it at the top of the file")
        try:
            check_run(definition, {key: value})
        except Mismatch as error:
            doubtful[key, json.dumps(value)] = (place, str(error))
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
    if config.grid is not None and doubtful:
        _refuse_hopeless(definition, doubtful)
    for i, overrides in enumerate(config.entries or ()):
        _check_entry(definition, f"list.{i}", overrides)


def _check_entry(definition: Definition, place: str, overrides: Overrides) -> None:
    try:
        check_run(definition, overrides)
    except InputError as error:
        # Of what only does not go together its trial will tell.
        if not isinstance(error, Mismatch) or str(error).startswith("task."):
            raise InputError(f"{place}: {error}") from error


def check_run(definition: Definition, overrides: Overrides) -> None:
    """Check one run's configuration.

    Raises:
        Mismatch: If its values do not go together.
        InputError: If one is wrong by itself.
    """
    config = definition.run_config(overrides, definition.config.name)
    try:
        check_options(config.task.kind, config.task.options)
    except InputError as error:
        raise Mismatch(str(error)) from error


def _values(config: SweepConfig) -> Iterator[tuple[str, str, Any]]:
    """Yield the place in the file, the key, and the value of everything that is varied."""
    for key, values in (config.grid or {}).items():
        yield from ((f"grid.{key}.{i}", key, value) for i, value in enumerate(values))
    for i, overrides in enumerate(config.entries or ()):
        yield from ((f"list.{i}.{key}", key, value) for key, value in overrides.items())
    for key, axis in (config.space or {}).items():
        names = ("low", "high") if axis.choices is None else range(len(axis.choices))
        places = (f"space.{key}.{name}" for name in names)
        yield from zip(places, itertools.repeat(key), axis.extremes(), strict=False)


def _refuse_hopeless(
    definition: Definition, doubtful: Mapping[tuple[str, str], tuple[str, str]]
) -> None:
    """Refuse a value of a grid with which no combination is valid."""
    hopeless = dict(doubtful)
    for overrides in definition.configurations():
        used = {(key, json.dumps(value)) for key, value in overrides.items()} & hopeless.keys()
        if used:
            try:
                check_run(definition, overrides)
            except InputError:
                continue
            hopeless = {value: told for value, told in hopeless.items() if value not in used}
    for place, told in hopeless.values():
        raise InputError(f"{place}: in no combination valid: {told}")
