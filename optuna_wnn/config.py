"""The YAML schema of a run: every key, its default, and one clear line for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

import pydantic
from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import Field
from pydantic import PrivateAttr
from pydantic import WithJsonSchema

from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Dimension
from optuna_wnn.memory import MemorySettings
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import EarlyStopping
from optuna_wnn.validation import parse_as


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


def _token(value: Any) -> int | tuple[int, int]:
    """Return a position, or a position and a number of bits, each 1 or more."""
    numbers = list(value) if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(number) is int and 1 <= number <= _MOST for number in numbers):
        raise ValueError("a position of 1 or more, or [position, leading bits], is needed")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]


_NUMBER: Final = {"type": "integer", "minimum": 1, "maximum": _MOST}


def _one_or_two(names: str) -> WithJsonSchema:
    """Return the schema of one number, or of two that have names."""
    pair = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2, "description": names}
    return WithJsonSchema({"anyOf": [_NUMBER, pair]})


Range = Annotated[
    tuple[int, int], pydantic.BeforeValidator(_range), _one_or_two("lowest, highest")
]
SeenToken = Annotated[
    int | tuple[int, int], pydantic.BeforeValidator(_token), _one_or_two("position, bits")
]
METRICS: Final = ("cross-entropy", "accuracy", "KiB")
DIRECTIONS: Final[tuple[Literal["minimize", "maximize"], ...]] = (
    "minimize",
    "maximize",
    "minimize",
)
Method = Literal["ga", "ts"]
_DIMENSION: Final = {"enum": list(get_args(Dimension))}
Free = Annotated[
    tuple[Dimension, ...],
    WithJsonSchema({"anyOf": [_DIMENSION, {"type": "array", "items": _DIMENSION}]}),
]


Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskSection(BaseModel):
    """What is learnt; the other keys are the options of the kind.

    Attributes:
        kind: ``python-docs``, ``text`` or ``tabular``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of the kind."""
        return dict(self.model_extra or {})


class SpaceSection(Section):
    """What genomes may look like, and what the first ones look like.

    Attributes:
        neurons: Neurons of a cluster: [lowest, highest], or one number.
        bits: Input bits that each neuron of a cluster observes: [lowest, highest], or one number.
        start_neurons: Neurons of a cluster while no phase has changed them; the middle of the
            range by default.
        start_bits: Bits of a neuron while no phase has changed them; the middle of the range by
            default.
        start_contexts: Of text tasks, what neurons observe at the start, in place of random
            inputs: a list for each of ``task.clusters_per_output``, of the tokens that its neurons
            observe, 1 the last one, 2 the one before it; [2, 8] is the first 8 bits of that.
            Under ``chained_bits`` they also observe the target's bits so far. Each cluster starts
            with as few neurons as it may.
        moves: ``fields`` has neurons take and give up bits at the end of what they observe of a
            token or feature; ``any`` draws from all inputs alike.
    """

    neurons: Range = (2, 64)
    bits: Range = (4, 16)
    start_neurons: Count | None = None
    start_bits: Count | None = None
    start_contexts: tuple[tuple[SeenToken, ...], ...] | None = None
    moves: Literal["any", "fields"] = "any"

    @pydantic.model_validator(mode="after")
    def _check_start(self) -> SpaceSection:
        starts = (
            ("neurons", self.neurons, self.start_neurons),
            ("bits", self.bits, self.start_bits),
        )
        for name, (low, high), start in starts:
            if start is not None and self.start_contexts is not None:
                raise InputError(
                    f"space.start_{name}: start_contexts says what the first genomes are; leave "
                    "one of the two out"
                )
            if start is not None and not low <= start <= high:
                raise InputError(
                    f"space.start_{name}: {start} is outside space.{name}, [{low}, {high}]; "
                    "change one of them"
                )
        return self


class FitnessSection(Section):
    """Which of two trials is better.

    Attributes:
        calculator: How cross-entropy and accuracy make one order.
        weights: Weights of cross-entropy, accuracy and, where it is one, size, each above 0; equal
            by default.
        accuracy_floor: Accuracy, a share in [0, 1], under which a trial ranks behind all others;
            none by default.
        size: Whether the memory of the trained network in KiB is a third objective: the smaller
            the better. ``CE`` then only breaks ties by it; choose another calculator.
    """

    calculator: FitnessCalculatorType = FitnessCalculatorType.CE
    weights: tuple[float, ...] | None = None
    accuracy_floor: float | None = None
    size: Annotated[bool, Field(strict=True)] = False

    @pydantic.model_validator(mode="after")
    def _check_weights(self) -> FitnessSection:
        if self.weights is not None and len(self.weights) != self.n_objectives:
            raise InputError(
                f"fitness.weights: {len(self.weights)} weights for {self.n_objectives} "
                f"objectives ({', '.join(METRICS[: self.n_objectives])}); give one for each"
            )
        return self

    @property
    def n_objectives(self) -> int:
        """How many of :data:`METRICS` a study has."""
        return len(METRICS) if self.size else len(METRICS) - 1

    def build(self) -> Fitness:
        """Return the fitness that the section describes."""
        return Fitness(self.calculator, self.weights, self.accuracy_floor)


class ThresholdSection(Section):
    """The accuracy that trials must reach, rising over all phases together.

    ``absolute`` bars are accuracies; ``quantile`` ones are quantiles of the accuracies that a
    phase starts with, so they do not depend on the task (the first phase then has no bar).

    Attributes:
        kind: What ``start`` and ``end`` are.
        start: The bar of the first generation, a share in [0, 1].
        end: The bar of the last one, a share in [0, 1].
    """

    kind: Literal["absolute", "quantile"] = "absolute"
    start: Share = 0.0
    end: Share

    @pydantic.model_validator(mode="after")
    def _rises(self) -> ThresholdSection:
        if self.start > self.end:
            raise InputError(f"threshold.start: {self.start} is above end, {self.end}; lower it")
        return self


class ScalingSection(Section):
    """How population and mutation rate grow while there is no progress.

    Attributes:
        check_interval: Generations between two looks at the progress.
        patience: Looks without progress after which the level rises.
        min_improvement: What counts as progress: the share by which the best loss must fall.
        population: Factors of the population at the levels WARNING and CRITICAL.
        mutation: Factors of the mutation rate at the levels WARNING and CRITICAL.
    """

    check_interval: Count = 5
    patience: Count = 1
    min_improvement: Improvement = 0.001
    population: tuple[float, float] = (1.15, 1.3)
    mutation: tuple[float, float] = (1.5, 2.0)

    def build(self) -> AdaptiveScaling:
        """Return the scaling that the section describes."""
        return AdaptiveScaling(**self.model_dump())


class SearchSection(Section):
    """How a phase searches: the defaults of all phases.

    Attributes:
        trials: Trials that a phase evaluates at the most, seeds not counted.
        patience: Generations without progress after which a phase ends; it never ends early
            by default.
        min_generations: Generations that a phase has in any case.
        min_improvement: What counts as progress: the share by which the best loss must fall.
        refine_steps: Single moves that each trial tries by itself before it reports.
        refine_moves: Whether those moves are drawn alike and each is tried on all examples
            (``blind``), or inputs that tell more are proposed more often and a move that fails
            on an eighth of the examples is dropped (``informed``).
        population_size: Genomes that survive a generation of a genetic algorithm, and seeds that
            a phase takes from the one before.
        tournament_size: Genomes that compete to become a parent.
        crossover_rate: Share of children that have two parents, in [0, 1].
        crossover: Whether a child's clusters come from either parent at random (``blind``) or
            from the one that does better on each (``informed``).
        mutation_rate: Share of a child's clusters that mutate, in [0, 1].
        n_neighbors: Neighbours that an iteration of a tabu search evaluates.
        tabu_tenure: Iterations for which a tabu search may not undo a move.
        n_sources: Genomes that a tabu search moves side by side; at most n_neighbors.
        improvement: Whether an iteration of a tabu search takes the ``best`` of its neighbours,
            or the ``first`` that is not worse than the current genome.
    """

    trials: Count = 200
    patience: Count | None = None
    min_generations: NonNegative = 3
    min_improvement: Improvement = 0.001
    refine_steps: NonNegative = 0
    refine_moves: Literal["blind", "informed"] = "blind"
    population_size: Annotated[int, Field(ge=2, strict=True)] = 20
    tournament_size: Count = 3
    crossover_rate: Share = 0.8
    crossover: Literal["blind", "informed"] = "informed"
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
    """One phase: a method, what it frees, and what it does differently from ``search``.

    Attributes:
        method: A genetic algorithm (``ga``) or a tabu search (``ts``).
        free: What it changes: neurons, bits or connections, or a list of these.
    """

    method: Method
    free: Free

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


DEFAULT_PHASES: Final[tuple[dict[str, str], ...]] = tuple(
    {"method": method, "free": free}
    for free in ("neurons", "bits", "connections")
    for method in ("ga", "ts")
)


class RunConfig(Section):
    """Everything that a run is made of.

    Attributes:
        name: What names the run's studies.
        seed: What all random numbers derive from; ``null`` draws one when the run starts, which
            is kept with it.
        storage: Where the studies live: the URL of an Optuna storage.
        backend: What evaluates: ``auto`` is the fastest that this machine has.
        threads: Threads that the evaluation uses; all that the machine has by default.
        device_bytes: Most bytes of a GPU's memory that the ``mlx`` backend takes; by default half
            of what the system recommends.
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

    name: Name
    seed: Seed | None = 0
    storage: str = "sqlite:///optuna-wnn.db"
    backend: str = "auto"
    threads: Count | None = None
    device_bytes: Count | None = None
    task: TaskSection
    memory: MemorySettings = MemorySettings()
    space: SpaceSection = SpaceSection()
    fitness: FitnessSection = FitnessSection()
    threshold: ThresholdSection | None = None
    scaling: ScalingSection | None = None
    search: SearchSection = SearchSection()
    phases: Annotated[tuple[PhaseSection, ...], Field(min_length=1, validate_default=True)] = ()
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_phases(cls, values: Any) -> Any:
        """Give every phase the settings of ``search`` that it does not have itself."""
        if not isinstance(values, dict):
            return values
        common = values.get("search") or {}
        phases = values.get("phases", DEFAULT_PHASES)
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

    @property
    def sources(self) -> Mapping[str, str]:
        """Where values came from that are no defaults, by the dotted paths of their keys."""
        return self._sources

    def with_sources(self, sources: Mapping[str, str]) -> RunConfig:
        """Return the same configuration, and where its values came from."""
        copy = self.model_copy()
        copy._sources = dict(sources)
        return copy

    def adaptive_scaling(self) -> AdaptiveScaling | None:
        """Return how population and mutation rate grow, or ``None`` if they do not."""
        return None if self.scaling is None else self.scaling.build()

    def identity(self) -> dict[str, Any]:
        """Return what makes the run what it is: all but where and by what it is run.

        Where the data lies is left out as well: what it is, is known by its digest.
        """
        where = {"name", "storage", "backend", "threads", "device_bytes"}
        document = self.model_dump(mode="json", exclude=where)
        document["task"] = {"kind": self.task.kind, **self.task.options}
        for place in ("path", "vocabulary", "cache"):
            document["task"].pop(place, None)
        del document["search"]  # the phases have it
        if self.space.start_contexts is None:  # as in runs that were started before there was one
            del document["space"]["start_contexts"]
        if self.space.moves == "any":
            del document["space"]["moves"]
        if self.memory.accuracy == "exact":
            del document["memory"]["accuracy"]
        if not self.fitness.size:
            del document["fitness"]["size"]  # as in runs that were started before there was one
        return document


def parse_config(document: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that a mapping describes.

    Raises:
        InputError: If something in it is wrong; the line names the path of the key.
    """
    return parse_as(RunConfig, document)
