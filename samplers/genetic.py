"""The genetic algorithm over genomes, and over ordinary parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Final
from typing import Literal
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Genome
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.history import violations_of
from optuna_wnn.samplers.known import KnownStudy
from optuna_wnn.samplers.parameters import nearby_value
from optuna_wnn.samplers.parameters import random_value
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import Plan
from optuna_wnn.schedule import Threshold
from optuna_wnn.store.places import Child
from optuna_wnn.variation import crossover
from optuna_wnn.variation import mutate


Crossover = Literal["blind", "informed"]

_PATIENCE: Final = 8  # attempts at a new genome between two further mutations
_WIDTH: Final = 0.1  # standard deviation of an ordinary parameter's mutation, of its range


@dataclass(frozen=True)
class _Pool:
    """What a generation is bred from.

    Attributes:
        parents: The best trials so far, best first.
        donors: For each cluster the number of the trial whose loss on it is the lowest,
            ``int64[K]``; empty where trials store no such losses or crossover is blind.
        losses: Those losses, ``float64[K]``.
    """

    parents: list[Record]
    donors: NDArray[np.int64]
    losses: NDArray[np.float64]


class WNNGeneticSampler(GenomeSampler):
    """A genetic algorithm that searches the wiring of RAM networks.

    The algorithm is a (µ + λ) one: parents and children compete, and the best
    ``population_size`` of both are the parents of the next generation, so the best are never
    lost. Each child

    1. has two parents, each the best of ``tournament_size`` that are drawn at random;
    2. takes every cluster, shape and wiring together, from either of them (with probability
       ``crossover_rate``; else it copies the first);
    3. mutates in the study's free dimensions (with ``mutation_rate`` per cluster, and in at
       least one cluster unless it was crossed), keeping every connection that it can;
    4. is made anew, up to 64 times, if the study has evaluated the same genome before.

    A trial whose worker died is evaluated again in its place, so a run that was killed and
    resumed ends with the same trials as one that was not.

    It works on any objective. Without a genome, ordinary parameters are crossed and mutated,
    with respect to steps, logarithms and choices; conditional parameters that no parent has are
    drawn at random.

    Example:

        .. code-block:: python

            study = optuna.create_study(
                directions=["minimize", "maximize"], sampler=WNNGeneticSampler()
            )
            study.optimize(objective, n_trials=500)

    References:
        Bäck, Fogel and Michalewicz, "Handbook of Evolutionary Computation", 1997, C2.3
        (tournament selection), C3.3 (uniform crossover).

    Args:
        seed: What all random numbers derive from; ``None`` draws one when a study starts and
            stores it there.
        population_size: Trials per generation, and parents of the next; at least 2.
        fitness: Which of two trials is better in a study with several objectives: the name of a
            calculator, or a :class:`~optuna_wnn.Fitness` with weights.
        tournament_size: Parents that compete to have a child; at least 1.
        crossover_rate: Probability that a child has two parents, in [0, 1].
        crossover: Where a crossed child takes its clusters from: each from one of its two
            parents at random (``blind``), or each from the trial of the study whose loss on it
            is the lowest (``informed``); the first child of a generation is then just that, and
            the others are mutants of it. So one evaluation judges as many moves as clusters
            mutate, and none that helped is lost: choose a ``mutation_rate`` of 1. It needs a
            loss that is a sum over clusters (heads ``bits`` and ``chained_bits``), stored by
            the objective (:func:`~optuna_wnn.set_genome`); without, crossover is blind. It is
            the optimal mixing of Thierens and Bosman, "Optimal mixing evolutionary algorithms",
            GECCO 2011, with the parts given by the loss itself.
        mutation_rate: Probability that a cluster, or an ordinary parameter, mutates, in [0, 1].
        threshold: An accuracy that trials must reach, rising from generation to generation;
            trials store by how much they miss its final bar as an Optuna constraint.
        scaling: How population and mutation rate grow while there is no progress.

    Raises:
        InputError: If a value is out of range.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        population_size: int = 50,
        fitness: Fitness | FitnessCalculatorType | str = FitnessCalculatorType.CE,
        tournament_size: int = 3,
        crossover_rate: float = 0.8,
        crossover: Crossover = "informed",
        mutation_rate: float = 0.1,
        threshold: Threshold | None = None,
        scaling: AdaptiveScaling | None = None,
    ) -> None:
        super().__init__(
            seed=seed,
            fitness=fitness,
            population=population_size,
            mutation_rate=mutation_rate,
            threshold=threshold,
            scaling=scaling,
        )
        kinds = get_args(Crossover)
        self._require(
            ("population_size", population_size, population_size >= 2, "at least 2"),
            ("tournament_size", tournament_size, tournament_size >= 1, "at least 1"),
            ("crossover_rate", crossover_rate, 0 <= crossover_rate <= 1, "in [0, 1]"),
            ("mutation_rate", mutation_rate, 0 <= mutation_rate <= 1, "in [0, 1]"),
            ("crossover", repr(crossover), crossover in kinds, f"one of {', '.join(kinds)}"),
        )
        self._tournament_size = tournament_size
        self._crossover = crossover
        self._crossover_rate = crossover_rate

    def _conceive(
        self,
        known: KnownStudy,
        generation: int,
        index: int,
        draw: Callable[..., np.random.Generator],
    ) -> tuple[Child, Callable[[int], tuple[Genome, Child]] | None]:
        start = self._start(known, generation)
        pool: _Pool = start.state
        rng = draw()
        numbers: tuple[int, ...] = ()
        crossed = rng.random() < self._crossover_rate
        informed = crossed and len(pool.donors) > 0
        if informed:
            numbers = tuple(np.unique(pool.donors).tolist())
        elif pool.parents:
            numbers = tuple(self._tournament(pool.parents, rng).number for _ in range(2))
        space = known.space
        if space is None:
            return Child(generation, index, numbers), None

        def make(attempt: int) -> tuple[Genome, Child]:
            rng = draw(attempt)
            if not numbers:
                genome = space.opening(index + attempt, rng)
                return genome, Child(generation, index, numbers, genome.handle)
            rate = start.plan.mutation_rate
            if informed:
                genome = self._composite(known, pool.donors)
                mutates = index > 0 or attempt > 0
            else:
                genome = self._offspring(known, numbers, crossed, rng)
                # A crossed child may do without: each cluster then costs nothing to evaluate.
                mutates = not crossed or bool((rng.random(genome.n_clusters) < rate).any())
            # Ever farther from what is known.
            for _ in range(mutates + attempt // _PATIENCE):
                genome = mutate(genome, space.bounds, space.free, rate, rng)
            return genome, Child(generation, index, numbers, genome.handle)

        return Child(generation, index, numbers), make

    def _derive(
        self, known: KnownStudy, generation: int, before: _Pool | None, plan: Plan
    ) -> _Pool:
        """Return what a generation is bred from."""
        if before is None:
            latest = parents = [r for r in self._parents(known, 0) if r.child.is_seed]
            donors, losses = np.empty(0, np.int64), np.empty(0)
        else:
            latest = self._parents(known, generation - 1)
            records = list({r.number: r for r in [*before.parents, *latest]}.values())
            missed = violations_of(records, plan.slack)
            order = self._fitness_of(known).order(losses_of(records), missed)
            parents = [records[i] for i in order[: plan.population]]
            donors, losses = before.donors, before.losses
        if self._crossover == "informed":
            for record in latest:
                donors, losses = _with_donor(donors, losses, record)
        return _Pool(parents, donors, losses)

    def _tournament(self, parents: list[Record], rng: np.random.Generator) -> Record:
        """Return the best of some parents drawn at random; they are in order, best first."""
        return parents[int(rng.integers(len(parents), size=self._tournament_size).min())]

    def _offspring(
        self, known: KnownStudy, parents: tuple[int, ...], crossed: bool, rng: np.random.Generator
    ) -> Genome:
        """Return the child of two parents before it mutates."""
        first, second = (known.history.genomes.read(number) for number in parents)
        return crossover(first, second, rng.random(first.n_clusters) < 0.5) if crossed else first

    def _composite(self, known: KnownStudy, donors: NDArray[np.int64]) -> Genome:
        """Return the genome that has every cluster from its donor."""
        numbers = np.unique(donors).tolist()
        child = known.history.genomes.read(numbers[0])
        for number in numbers[1:]:
            child = crossover(child, known.history.genomes.read(number), donors == number)
        return child

    def _parameter(
        self,
        known: KnownStudy,
        child: Child,
        name: str,
        distribution: BaseDistribution,
        rng: np.random.Generator,
    ) -> Any:
        values = [
            record.params[name]
            for record in map(known.history.record, child.parents)
            if record is not None and name in record.params
        ]
        if not values:
            return random_value(distribution, rng)
        crossed = len(values) > 1 and rng.random() < self._crossover_rate
        value = values[int(rng.integers(2))] if crossed else values[0]
        rate = self._start(known, child.generation).plan.mutation_rate
        if rng.random() < rate or not crossed:
            return nearby_value(distribution, value, _WIDTH, rng)
        return value


def _with_donor(
    donors: NDArray[np.int64], losses: NDArray[np.float64], record: Record
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the donors and their losses after a trial; of equals the newer one stays."""
    own = record.cluster_losses
    if own is None:
        return donors, losses
    if not len(donors):
        return np.full(len(own), record.number), own
    better = own <= losses
    return np.where(better, record.number, donors), np.where(better, own, losses)
