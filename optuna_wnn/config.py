"""The YAML schema of a run: every key, its default, and one clear line for what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal

import pydantic
import yaml
from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import Field

from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import EarlyStopping
from optuna_wnn.strict_yaml import parse_yaml
from optuna_wnn.strict_yaml import read_yaml
from optuna_wnn.strict_yaml import yaml_reason


_MOST: Final = 1 << 16  # neurons of a cluster: what every evaluator can count

Count = Annotated[int, Field(ge=1, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Improvement = Annotated[float, Field(ge=0, strict=True)]


def _range(value: Any) -> Any:
    pair = [value, value] if isinstance(value, int) else value
    numbers = isinstance(pair, list | tuple) and [type(n) for n in pair] == [int, int]
    if not numbers or not 1 <= pair[0] <= pair[1] <= _MOST:
        raise ValueError(f"give one number from 1 to {_MOST}, or [lowest, highest]")
    return tuple(pair)


Range = Annotated[tuple[int, int], pydantic.BeforeValidator(_range)]
Method = Literal["ga", "ts"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskSection(BaseModel):
    """What is learnt; the other keys are the options of the kind."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of the kind."""
        return dict(self.model_extra or {})


class SpaceSection(_Section):
    """What genomes may look like, and what the first ones look like."""

    neurons: Range = (2, 64)
    bits: Range = (4, 16)
    start_neurons: Count | None = None
    start_bits: Count | None = None

    @pydantic.model_validator(mode="after")
    def _check_start(self) -> SpaceSection:
        starts = (
            ("neurons", self.neurons, self.start_neurons),
            ("bits", self.bits, self.start_bits),
        )
        for name, (low, high), start in starts:
            if start is not None and not low <= start <= high:
                raise InputError(
                    f"space.start_{name}: {start} is outside space.{name}, [{low}, {high}]; "
                    "change one of them"
                )
        return self


class FitnessSection(_Section):
    """Which of two trials is better."""

    calculator: FitnessCalculatorType = FitnessCalculatorType.CE
    weights: tuple[float, float] | None = None
    accuracy_floor: float | None = None

    def build(self) -> Fitness:
        """Return the fitness that the section describes."""
        return Fitness(self.calculator, self.weights, self.accuracy_floor)


class ThresholdSection(_Section):
    """The accuracy that trials must reach, rising over all phases together.

    ``absolute`` bars are accuracies; ``quantile`` ones are quantiles of the accuracies that a
    phase starts with, so they do not depend on the task (the first phase then has no bar).
    """

    kind: Literal["absolute", "quantile"] = "absolute"
    start: Share = 0.0
    end: Share

    @pydantic.model_validator(mode="after")
    def _rises(self) -> ThresholdSection:
        if self.start > self.end:
            raise InputError(f"threshold.start: {self.start} is above end, {self.end}; lower it")
        return self


class ScalingSection(_Section):
    """How population and mutation rate grow while there is no progress."""

    check_interval: Count = 5
    patience: Count = 1
    min_improvement: Improvement = 0.001
    population: tuple[float, float] = (1.15, 1.3)
    mutation: tuple[float, float] = (1.5, 2.0)

    def build(self) -> AdaptiveScaling:
        """Return the scaling that the section describes."""
        return AdaptiveScaling(**self.model_dump())


class SearchSection(_Section):
    """How a phase searches: the defaults of all phases."""

    trials: Count = 200
    patience: Count | None = None
    min_generations: NonNegative = 3
    min_improvement: Improvement = 0.001
    refine_steps: NonNegative = 0
    population_size: Annotated[int, Field(ge=2, strict=True)] = 20
    tournament_size: Count = 3
    crossover_rate: Share = 0.8
    crossover: Literal["blind", "informed"] = "blind"
    mutation_rate: Share = 0.1
    n_neighbors: Count = 20
    tabu_tenure: NonNegative = 10
    n_sources: Count = 1
    improvement: Literal["best", "first"] = "best"

    @property
    def early_stopping(self) -> EarlyStopping:
        """When a phase ends before its trials are spent."""
        return EarlyStopping(self.patience, self.min_generations, self.min_improvement)


class PhaseSection(SearchSection):
    """One phase: a method, what it frees, and what it does differently."""

    method: Method
    free: tuple[Dimension, ...]

    @pydantic.field_validator("free", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @pydantic.field_validator("free")
    @classmethod
    def _each_once(cls, value: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one dimension, and each once")
        return value

    @property
    def label(self) -> str:
        """What names the phase: ``ga-neurons``."""
        return "-".join((self.method, *self.free))


_PHASES: tuple[dict[str, str], ...] = tuple(
    {"method": method, "free": free}
    for free in ("neurons", "bits", "connections")
    for method in ("ga", "ts")
)


class RunConfig(_Section):
    """Everything that a run is made of.

    Attributes:
        name: What names the run's studies.
        seed: What all random numbers derive from.
        storage: Where the studies live; see :func:`~optuna_wnn.open_storage`.
        backend: What evaluates; see :func:`~optuna_wnn.evaluators.create_evaluator`.
        threads: How many threads the evaluation uses; all that the machine has by default.
        task: What is learnt.
        memory: How neurons remember and vote.
        space: What genomes may look like.
        fitness: Which of two trials is better.
        threshold: The accuracy that trials must reach; none by default.
        scaling: How population and mutation rate grow while there is no progress; they do not
            by default.
        search: How phases search, unless they say otherwise.
        phases: The phases in their order; by default a genetic algorithm and a tabu search over
            neurons, then over bits, then over connections.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0
    storage: str = "sqlite:///optuna-wnn.db"
    backend: str = "auto"
    threads: Count | None = None
    task: TaskSection
    memory: MemorySettings = MemorySettings()
    space: SpaceSection = SpaceSection()
    fitness: FitnessSection = FitnessSection()
    threshold: ThresholdSection | None = None
    scaling: ScalingSection | None = None
    search: SearchSection = SearchSection()
    phases: Annotated[tuple[PhaseSection, ...], Field(min_length=1, validate_default=True)] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_phases(cls, values: Any) -> Any:
        """Give every phase the settings of ``search`` that it does not have itself."""
        if not isinstance(values, dict):
            return values
        common = values.get("search") or {}
        phases = values.get("phases", _PHASES)
        if isinstance(common, dict) and isinstance(phases, list | tuple):
            known = {k: v for k, v in common.items() if k in SearchSection.model_fields}
            phases = [{**known, **p} if isinstance(p, dict) else p for p in phases]
        return {**values, "phases": phases}

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        self.fitness.build()
        self.adaptive_scaling()
        for i, phase in enumerate(self.phases):
            if phase.method == "ts" and phase.n_sources > phase.n_neighbors:
                common = phase.n_sources == self.search.n_sources
                raise InputError(
                    f"{'search' if common else f'phases.{i}'}.n_sources: {phase.n_sources} is "
                    f"above n_neighbors, {phase.n_neighbors}; lower it"
                )
        return self

    def adaptive_scaling(self) -> AdaptiveScaling | None:
        """Return how population and mutation rate grow, or ``None`` if they do not."""
        return None if self.scaling is None else self.scaling.build()

    def identity(self) -> dict[str, Any]:
        """Return what makes the run what it is: all but where and by what it is run.

        Where the data lies is left out as well: what it is, is known by its digest.
        """
        document = self.model_dump(mode="json", exclude={"name", "storage", "backend", "threads"})
        document["task"] = {"kind": self.task.kind, **self.task.options}
        document["task"].pop("path", None)
        del document["search"]  # the phases have it
        return document


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration in a YAML file.

    Args:
        path: The file.
        overrides: ``key=value`` each: a key with dots for what is inside, a value in YAML.

    Raises:
        InputError: If the file cannot be read, is no YAML, or says something wrong; the line
            names the file, the path of the key, and the remedy.
    """
    path = Path(path)
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: a mapping of keys is needed, such as 'name: my-run'")
    for override in overrides:
        _override(document, override)
    try:
        return parse_config(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_config(document: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that a mapping describes.

    Raises:
        InputError: If something in it is wrong; the line names the path of the key.
    """
    try:
        return RunConfig.model_validate(dict(document))
    except pydantic.ValidationError as error:
        raise InputError(_reason(error)) from error


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise InputError(f"--set {override}: give it as key=value, such as --set seed=1")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: not valid YAML: {yaml_reason(error)}") from error
    *parents, last = key.split(".")
    place: Any = document
    for i, name in enumerate([*parents, last]):
        is_last = i == len(parents)
        if isinstance(place, list):
            if not name.isdecimal() or int(name) >= len(place):
                where = ".".join(key.split(".")[: i + 1])
                raise InputError(f"--set {where}: there are {len(place)} of them, from 0")
            if is_last:
                place[int(name)] = value
            place = place[int(name)]
        elif isinstance(place, dict):
            if is_last:
                place[name] = value
            elif name == "phases" and not place.get(name):
                place[name] = [dict(phase) for phase in _PHASES]
            elif place.get(name) is None:
                place[name] = {}
            place = place[name]
        else:
            where = ".".join(key.split(".")[:i])
            raise InputError(f"--set {key}: {where} is a single value and has no {name!r}")


def _reason(error: pydantic.ValidationError) -> str:
    """Return one line for the first thing that is wrong, and how many more there are."""
    problems = error.errors(include_url=False)
    # What a wrong ``search`` key does to every phase is said once, where it stands.
    problems.sort(key=lambda problem: problem["loc"][:1] == ("phases",))
    first = problems[0]
    location = first["loc"]
    if location[:1] == ("memory",):  # what follows names members of unions
        location = location[:2]
    path = ".".join(map(str, location))
    kind, given = first["type"], first.get("input")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        text = f"{path}: there is no such key{_suggestion(first['loc'])}"
    elif kind == "missing":
        text = f"{path}: this key is needed; add it"
    elif kind == "string_pattern_mismatch":
        text = f"{path}: {_shown(given)} is no name; use up to 100 letters, digits, '.', '_', '-'"
    else:
        wanted = _WANTED.get(kind, first["msg"].removeprefix("Value error, "))
        text = f"{path}: {wanted[:1].lower()}{wanted[1:]} (it is {_shown(given)})"
    return text


_WANTED = {
    "tuple_type": "a list is needed",
    "dict_type": "a mapping of keys is needed",
    "model_type": "a mapping of keys is needed",
    "dataclass_type": "a mapping of keys is needed",
    "too_short": "at least one is needed",
    "string_type": "text is needed; put it in quotes",
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


_SECTIONS: dict[str, type[BaseModel]] = {
    "space": SpaceSection,
    "fitness": FitnessSection,
    "threshold": ThresholdSection,
    "scaling": ScalingSection,
    "search": SearchSection,
    "phases": PhaseSection,
}


def _suggestion(location: tuple[int | str, ...]) -> str:
    """Return the key that was probably meant."""
    if len(location) == 1:
        known = list(RunConfig.model_fields)
    elif location[0] == "memory":
        known = list(MemorySettings.__dataclass_fields__)
    else:
        known = list(_SECTIONS[str(location[0])].model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}"
