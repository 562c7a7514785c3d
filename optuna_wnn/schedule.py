"""When a search has gone on long enough: pure functions of a study's history."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError


@dataclass(frozen=True)
class EarlyStopping:
    """When a phase ends before its trials are spent.

    Attributes:
        patience: Generations without progress after which it ends; ``None`` never ends it.
        min_generations: Generations that it has in any case.
        min_improvement: What counts as progress: the share by which the best loss of an
            objective must fall below the best at the last progress.

    Raises:
        InputError: If a value is out of range.
    """

    patience: int | None = None
    min_generations: int = 3
    min_improvement: float = 0.001

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience: {self.patience} is below 1; leave it out to never stop")
        if self.min_generations < 0 or self.min_improvement < 0:
            raise InputError("min_generations and min_improvement must not be below 0")


def best_so_far(lowest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lowest loss of each objective after each generation, ``float64[g, m]``.

    Args:
        lowest: Its lowest loss in each generation, ``float64[g, m]``; infinite where none is.
    """
    best: NDArray[np.float64] = np.minimum.accumulate(lowest, axis=0)
    return best


def stalled_generations(best: NDArray[np.float64], min_improvement: float) -> int:
    """Return for how many generations no objective has made progress.

    Slow progress adds up: each generation is compared with the last one that made progress, not
    with the one before it.

    Args:
        best: The lowest loss of each objective after each generation, ``float64[g, m]``.
        min_improvement: The share of its size by which a loss must fall to count.
    """
    last = 0  # the last generation that made progress
    while last < len(best):
        # Before the first trial the reference is infinite, and any number is progress.
        reference = best[last]
        needed = np.where(np.isfinite(reference), np.abs(reference) * min_improvement, 0.0)
        progress = np.any(best[last + 1 :] < reference - needed, axis=1)
        if not progress.any():
            return len(progress)
        last += 1 + int(progress.argmax())
    return 0


def should_stop(
    best: NDArray[np.float64], rule: EarlyStopping, scaling: AdaptiveScaling | None = None
) -> bool:
    """Return whether a phase ends after its last full generation.

    With adaptive scaling it does not end before the search was CRITICAL, population and mutation
    at their largest, for a whole check interval.

    Args:
        best: The lowest loss of each objective after each full generation, ``float64[g, m]``;
            the first row is where the phase started from.
        rule: When to end.
        scaling: How population and mutation grow, if they do.
    """
    if rule.patience is None or len(best) <= rule.min_generations:
        return False
    if scaling is not None:
        earlier = best[: max(0, len(best) - scaling.check_interval)]
        if min(scaling.level(earlier), scaling.level(best)) < Level.CRITICAL:
            return False
    return stalled_generations(best, rule.min_improvement) >= rule.patience


# -- progressive accuracy threshold --------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """The accuracy that trials must reach, rising from generation to generation.

    What a trial stores is how far it misses the *final* bar; a bar that moves would make early
    trials look better than they are. The samplers relax that by :meth:`slack`: an
    ε-constraint that tightens, as in Takahama and Sakai, "Constrained optimization by the ε
    constrained differential evolution", CEC 2006.

    Attributes:
        start: The bar of the first generation, in [0, 1]; 0 admits everything.
        end: The bar from generation ``ramp`` on.
        final: What trials are measured against; ``end`` by default, more where later phases go
            on rising.
        ramp: Over how many generations the bar rises; at least 1.

    Raises:
        InputError: If a value is out of range.
    """

    start: float
    end: float
    final: float | None = None
    ramp: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= self.highest <= 1:
            raise InputError(
                f"threshold: {self.start}, {self.end}, {self.highest} must rise within [0, 1]"
            )
        if self.ramp < 1:
            raise InputError(f"threshold.ramp: {self.ramp} is below 1 generation")

    @property
    def highest(self) -> float:
        """The final bar."""
        return self.end if self.final is None else self.final

    def bar(self, generation: int) -> float:
        """Return the accuracy that counts as feasible in a generation."""
        return self.start + (self.end - self.start) * min(1.0, generation / self.ramp)

    def slack(self, generation: int) -> float:
        """Return by how much a generation relaxes the final bar."""
        return self.highest - self.bar(generation)


# -- adaptive scaling ----------------------------------------------------------------------------


class Level(enum.IntEnum):
    """How a search is doing; the worse, the wider it looks."""

    HEALTHY = 0
    NEUTRAL = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True)
class AdaptiveScaling:
    """How population and mutation rate grow while a search makes no progress.

    Attributes:
        check_interval: Generations between two checks; at least 1.
        patience: Checks without progress that raise the level by one; at least 1.
        min_improvement: What counts as progress: the share by which the best loss of an
            objective must have fallen since the last progress.
        population: What the population is multiplied by at WARNING and at CRITICAL.
        mutation: What the mutation rate is multiplied by at WARNING and at CRITICAL.

    Raises:
        InputError: If a value is out of range.
    """

    check_interval: int = 5
    patience: int = 1
    min_improvement: float = 0.001
    population: tuple[float, float] = (1.15, 1.3)
    mutation: tuple[float, float] = (1.5, 2.0)

    def __post_init__(self) -> None:
        if self.check_interval < 1 or self.patience < 1 or self.min_improvement < 0:
            raise InputError(
                "scaling: check_interval and patience must be at least 1, min_improvement at "
                "least 0"
            )
        if min(*self.population, *self.mutation) < 1:
            raise InputError("scaling: the factors of population and mutation must be at least 1")

    def level(self, best: NDArray[np.float64]) -> Level:
        """Return how a search is doing when its next generation starts.

        Progress at the last check is HEALTHY. Each ``patience`` further checks without progress
        raise the level by one, up to CRITICAL; progress brings it back to HEALTHY.

        Args:
            best: The lowest loss of each objective after each generation, ``float64[g, m]``.
        """
        checked = best[:: self.check_interval]
        stalled = stalled_generations(checked, self.min_improvement)
        return Level(min(Level.CRITICAL, stalled // self.patience))

    def population_factor(self, level: Level) -> float:
        """Return what the population is multiplied by."""
        return self.population[level - Level.WARNING] if level >= Level.WARNING else 1.0

    def mutation_factor(self, level: Level) -> float:
        """Return what the mutation rate is multiplied by."""
        return self.mutation[level - Level.WARNING] if level >= Level.WARNING else 1.0


@dataclass(frozen=True)
class Plan:
    """What a generation starts with.

    Attributes:
        threshold: The accuracy that counts as feasible.
        slack: By how much the final bar is relaxed.
        level: How the search is doing.
        population: How many trials the generation has.
        mutation_rate: How likely a cluster mutates.
    """

    threshold: float
    slack: float
    level: Level
    population: int
    mutation_rate: float


def plan(
    generation: int,
    best: NDArray[np.float64],
    population: int,
    mutation_rate: float,
    threshold: Threshold | None,
    scaling: AdaptiveScaling | None,
) -> Plan:
    """Return what a generation starts with.

    Args:
        generation: The generation.
        best: The lowest loss of each objective after each generation before it.
        population: How many trials it has at base.
        mutation_rate: How likely a cluster mutates at base.
        threshold: The accuracy bar, if there is one.
        scaling: How the others grow while there is no progress, if they do.
    """
    level = scaling.level(best) if scaling is not None else Level.HEALTHY
    larger = scaling.population_factor(level) if scaling is not None else 1.0
    stronger = scaling.mutation_factor(level) if scaling is not None else 1.0
    return Plan(
        threshold.bar(generation) if threshold is not None else 0.0,
        threshold.slack(generation) if threshold is not None else 0.0,
        level,
        round(population * larger),
        min(1.0, mutation_rate * stronger),
    )
