"""The YAML schema of a sweep: a base configuration, and what of it is varied."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal

import pydantic
from pydantic import Field

from optuna_wnn.config import Count
from optuna_wnn.config import Name
from optuna_wnn.config import RunConfig
from optuna_wnn.config import Section
from optuna_wnn.config import Seed
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.sources import put


MOST: Final = 10_000  # configurations of a sweep
Overrides = dict[str, Any]  # dotted key of a configuration -> value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number is needed")
    return value


def _file_or_mapping(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("give the path of a file, or a mapping of keys")
    return value


Number = Annotated[
    Any, pydantic.BeforeValidator(_number), pydantic.WithJsonSchema({"type": "number"})
]
Base = Annotated[
    Any,
    pydantic.BeforeValidator(_file_or_mapping),
    pydantic.WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]


class Axis(Section):
    """What values a key may take: a range, or choices.

    Attributes:
        low: The lowest value.
        high: The highest value; if both are whole numbers, all values are.
        log: Whether the logarithm of the value is drawn evenly.
        step: Distance between two values.
        choices: The values themselves, instead of a range.
    """

    low: Number = None
    high: Number = None
    log: Annotated[bool, Field(strict=True)] = False
    step: Number = None
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _list_or_mapping(cls, value: Any) -> Any:
        return {"choices": value} if isinstance(value, list) else value

    @pydantic.model_validator(mode="after")
    def _check(self) -> Axis:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("give choices or a range from low to high, not both")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError("give choices, or low and high with low <= high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        if self.is_whole and not isinstance(self.step, int | None):
            raise ValueError("whole numbers need a whole step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether a range is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that must be right for all to be: the ends, or every choice."""
        return (self.low, self.high) if self.choices is None else self.choices


class SweepConfig(Section):
    """Many runs of one base configuration, each with other values of some keys.

    Attributes:
        name: What names the sweep; its runs are called NAME/sweep-0000 and so on.
        base: The configuration of which keys are varied: a file beside this one, or a mapping.
        storage: Where all studies live: the URL of an Optuna storage; that of the base by default.
        objective: What makes one run better than another, on what guides its search.
        method: How values are chosen: all combinations of ``grid``, the entries of ``list``, or
            from ``space`` at ``random`` or by ``tpe``, which learns from finished runs.
        grid: For each key, in dots, the values that it takes.
        list: Overrides of each run: keys, in dots, with their values.
        space: For each key, in dots, the choices or the range from low to high.
        trials: How many runs ``random`` and ``tpe`` make.
        seed: What ``random`` and ``tpe`` derive their random numbers from.
    """

    name: Name
    base: Base
    storage: str | None = None
    objective: Literal["cross-entropy", "accuracy"] = "cross-entropy"
    method: Literal["grid", "list", "random", "tpe"]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    entries: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(
        None, alias="list"
    )
    space: dict[str, Axis] | None = None
    trials: Count | None = None
    seed: Seed = 0

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether Optuna minimises or maximises the objective."""
        return "minimize" if self.objective == "cross-entropy" else "maximize"

    @pydantic.model_validator(mode="after")
    def _goes_together(self) -> SweepConfig:
        sampled = self.method in ("random", "tpe")
        wanted = "space" if sampled else self.method
        given = {"grid": self.grid, "list": self.entries, "space": self.space}
        for key, value in given.items():
            if (value is not None) != (key == wanted):
                remedy = f"add {wanted}" if key == wanted else f"remove {key}"
                raise InputError(f"{key}: method: {self.method} takes {wanted}; {remedy}")
            if value is not None and not value:
                raise InputError(f"{key}: it varies nothing; name at least one key")
        if sampled != (self.trials is not None):
            remedy = "add it" if sampled else "remove it, or choose method: random or tpe"
            raise InputError(f"trials: how many runs method: {self.method} makes; {remedy}")
        if self.trials is not None and self.trials > MOST:
            raise InputError(f"trials: {self.trials} is above {MOST}; lower it")
        return self


@dataclass(frozen=True)
class Definition:
    """A sweep whose parts were checked.

    Attributes:
        config: What its file says.
        base: The document of the base configuration, as the environment and the command line
            have it.
        storage: Where the studies live.
        threads: Threads of each evaluation, overruling the base, or ``None``.
    """

    config: SweepConfig
    base: Mapping[str, Any]
    storage: str
    threads: int | None = None

    def configurations(self) -> list[Overrides]:
        """Return the overrides of every run that the file lists, each once, in its order."""
        if self.config.grid is not None:
            combinations = itertools.product(*self.config.grid.values())
            found = [dict(zip(self.config.grid, values, strict=True)) for values in combinations]
        else:
            found = self.config.entries or []
        unique: dict[str, Overrides] = {}
        for overrides in found:
            unique.setdefault(key_of(overrides), overrides)
        return list(unique.values())

    def n_runs(self) -> int:
        """Return how many runs the sweep makes."""
        return self.config.trials or len(self.configurations())

    def run_config(self, overrides: Overrides, name: str) -> RunConfig:
        """Return the configuration of one run.

        Raises:
            InputError: If its values do not go together.
        """
        config = parse_config(self._document(overrides))
        changed: dict[str, Any] = {"name": name}
        if self.threads is not None:
            changed["threads"] = self.threads
        sources = dict.fromkeys(overrides, f"sweep {self.config.name}")
        return config.model_copy(update=changed).with_sources({**config.sources, **sources})

    def _document(self, overrides: Overrides) -> dict[str, Any]:
        document = copy.deepcopy(dict(self.base))
        for key, value in overrides.items():
            put(document, key, copy.deepcopy(value))
        return document

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a sweep to go on; runs may be added to it."""
        document = self.config.model_dump(mode="json", by_alias=True)
        kept = ["objective", "method", *(["space", "seed"] if self.config.space else [])]
        base = parse_config(self.base).identity()
        return {**{key: document[key] for key in kept}, "base": base}


def key_of(overrides: Overrides) -> str:
    """Return what tells the overrides of two runs apart."""
    return json.dumps(overrides, sort_keys=True)


def shown(overrides: Overrides) -> str:
    """Return overrides in words: ``memory.vote=mean space.bits=[4,8]``."""
    words = (
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in overrides.items()
    )
    return " ".join(words) or "as the base"


def with_threads(definition: Definition, threads: int) -> Definition:
    """Return the same sweep with so many threads, unless the base says how many."""
    if parse_config(definition.base).threads is not None:
        return definition
    return replace(definition, threads=threads)
