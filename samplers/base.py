"""What both samplers share: places in the history, seeds of randomness, giving out genomes."""

from __future__ import annotations

import abc
import threading
import zlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn import store
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Genome
from optuna_wnn.samplers.history import History
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.parameters import conforms
from optuna_wnn.samplers.parameters import random_value
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import Plan
from optuna_wnn.schedule import Threshold
from optuna_wnn.schedule import best_so_far
from optuna_wnn.schedule import plan
from optuna_wnn.space import GENOME_DISTRIBUTION
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store import Child
from optuna_wnn.workers import this_worker


_SEED: Final = "seed"
_ATTEMPTS: Final = 64  # draws of a genome that the study does not have yet
_MOST_STUDIES: Final = 8  # studies that a sampler remembers at a time
_MOST_IN_FLIGHT: Final = 4096  # running trials whose genome is kept in memory


@dataclass(frozen=True)
class Start:
    """What a sampler knows when a generation starts; a pure function of those before it.

    Attributes:
        plan: Threshold, level, population and mutation rate of the generation.
        best: The lowest loss of each objective after each generation before, ``float64[g, m]``.
        state: What the algorithm itself knows.
    """

    plan: Plan
    best: NDArray[np.float64]
    state: Any


class KnownStudy:
    """What a sampler keeps of one study; all of it can be had from the storage again."""

    def __init__(self, study: optuna.Study) -> None:
        self.lock = threading.Lock()
        self.history = History(study)
        self.space = GenomeSpace.read(study)
        self.seed: int | None = None
        self.in_flight: dict[int, tuple[Child, Genome | None]] = {}  # by number of the trial
        self.starts: list[Start] = []  # by generation
        self.planned: set[int] = set()  # generations whose plan is in the storage


class GenomeSampler(BaseSampler, abc.ABC):
    """Base of the samplers: everything but the algorithm.

    Every trial gets a place (generation, index) in the study's history, and all random numbers
    of a trial come from the study's seed and its place. So the storage is all there is to keep:
    another worker, or this one after a crash, goes on as if nothing had happened.

    The genome is given out in ``before_trial``, which runs for every trial; Optuna 5 calls
    ``sample_relative`` only for trials that suggest something that is not fixed.

    Args:
        seed: What all random numbers derive from; ``None`` draws one when a study starts and
            stores it there.
        fitness: Which of two trials is better: a :class:`~optuna_wnn.Fitness`, or the name of a
            calculator. It applies to studies with several objectives; with one, lower or higher
            is better as the study's direction says.
        population: Trials per generation, at base.
        mutation_rate: How likely a cluster or an ordinary parameter mutates, at base.
        threshold: The accuracy that trials must reach; they store by how much they miss its
            final bar as an Optuna constraint.
        scaling: How population and mutation rate grow while there is no progress.
    """

    def __init__(
        self,
        *,
        seed: int | None,
        fitness: Fitness | FitnessCalculatorType | str,
        population: int,
        mutation_rate: float,
        threshold: Threshold | None,
        scaling: AdaptiveScaling | None,
    ) -> None:
        self._seed = seed
        self._population = population
        self._mutation_rate = mutation_rate
        self._threshold = threshold
        self._scaling = scaling
        self._fitness = Fitness.of(fitness)
        self._entropy = np.random.SeedSequence(seed)
        self._studies: dict[tuple[int, str], KnownStudy] = {}  # least recently used first
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_studies"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._studies = {}
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """Draw new entropy for studies that have no seed yet."""
        self._entropy = np.random.SeedSequence()

    # -- the algorithm --

    @abc.abstractmethod
    def _derive(self, known: KnownStudy, generation: int, before: Any, plan: Plan) -> Any:
        """Return what the algorithm knows when a generation starts.

        Args:
            known: The study.
            generation: The generation that starts.
            before: What it knew when the generation before started; ``None`` for the first.
            plan: What the generation starts with.
        """

    def _size(self, known: KnownStudy, generation: int) -> int:
        """Return how many places a generation has."""
        return self._start(known, generation).plan.population

    @abc.abstractmethod
    def _conceive(
        self,
        known: KnownStudy,
        generation: int,
        index: int,
        draw: Callable[..., np.random.Generator],
    ) -> tuple[Child, Callable[[int], tuple[Genome, Child]] | None]:
        """Return who takes a place, and what draws its genome at the n-th attempt."""

    @abc.abstractmethod
    def _parameter(
        self,
        known: KnownStudy,
        child: Child,
        name: str,
        distribution: BaseDistribution,
        rng: np.random.Generator,
    ) -> Any:
        """Return the value of an ordinary parameter."""

    # -- Optuna's side --

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Give the trial its place in the history and, if the space is known, its genome."""
        known = self._known(study)
        with known.lock:
            known.history.look(trial.number)
            self._take_place(known, study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: parameters are sampled one by one."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return nothing: parameters are sampled one by one."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the genome's own value where the parameter shows it, else a varied one."""
        known = self._known(study)
        with known.lock:
            child, genome = self._placed(known, study, trial)
            if (
                genome is None
                and param_name == store.GENOME_PARAMETER
                and param_distribution == GENOME_DISTRIBUTION
            ):
                # The first trial of a study: the objective has only now told the space.
                known.space = known.space or GenomeSpace.read(study)
                child, genome = self._give_out(known, study, trial, child)
            if genome is not None and known.space is not None:
                shown = known.space.parameters(genome)
                if param_name in shown and conforms(param_distribution, shown[param_name]):
                    return shown[param_name]
            rng = self._generator(known, study, child, zlib.crc32(param_name.encode()))
            value = self._parameter(known, child, param_name, param_distribution, rng)
            if conforms(param_distribution, value):
                return value
            return random_value(param_distribution, rng)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Take the finished trial into the history."""
        known = self._known(study)
        with known.lock:
            known.in_flight.pop(trial.number, None)
            known.history.note(trial, state, None if values is None else list(values))

    # -- for who runs a study --

    def history(self, study: optuna.Study) -> History:
        """Return the trials of a study that are known here, those of this process up to date."""
        return self._known(study).history

    def plan(self, study: optuna.Study, generation: int) -> Plan:
        """Return what a generation starts with."""
        known = self._known(study)
        with known.lock:
            return self._start(known, generation).plan

    def is_full(self, study: optuna.Study, generation: int) -> bool:
        """Return whether every place of a generation has a trial that finished."""
        known = self._known(study)
        with known.lock:
            return known.history.n_finished(generation) >= self._size(known, generation)

    # -- places --

    def _known(self, study: optuna.Study) -> KnownStudy:
        with self._lock:
            key = id(store.storage_of(study)), study.study_name
            known = self._studies.pop(key, None) or KnownStudy(study)
            self._studies[key] = known
            while len(self._studies) > _MOST_STUDIES:
                self._studies.pop(next(iter(self._studies)))
            return known

    def _take_place(self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take a free place; give way and take another if some other worker took it as well."""
        history = known.history
        while True:
            generation, index = self._free_place(known)
            child, genome = self._made(known, study, trial, generation, index)
            history.take(trial.number, child)
            store.write_child(study, store.trial_id(trial), child)
            # Of two workers that write before they look, at least one sees the other.
            history.look_ahead(trial.number)
            if not history.is_contested(trial.number, child):
                break
        self._keep(known, study, trial, child, genome)
        self._write_plan(known, study, child.generation)

    def _free_place(self, known: KnownStudy) -> tuple[int, int]:
        history = known.history
        lost = history.lost_place()
        if lost is not None:
            return lost
        generation = max(history.newest, 0)
        index = history.free_index(generation, self._size(known, generation))
        return (generation + 1, 0) if index is None else (generation, index)

    def _made(
        self,
        known: KnownStudy,
        study: optuna.Study,
        trial: FrozenTrial,
        generation: int,
        index: int,
    ) -> tuple[Child, Genome | None]:
        """Return who takes a place and, where the space is known, its genome."""

        def draw(*key: int) -> np.random.Generator:
            return self._generator(known, study, Child(generation, index), *key)

        child, make = self._conceive(known, generation, index, draw)
        child = replace(child, worker=this_worker())
        if make is None or store.GENOME_PARAMETER in store.fixed_parameters(trial):
            return child, None
        # A genome that the study has already is not evaluated again, unless it has them all.
        for attempt in range(_ATTEMPTS):
            genome, child = make(attempt)
            if not known.history.is_known(genome.handle, generation, index):
                break
        return replace(child, worker=this_worker()), genome

    def _give_out(
        self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial, child: Child
    ) -> tuple[Child, Genome | None]:
        if known.space is None:
            return child, None
        child, genome = self._made(known, study, trial, child.generation, child.index)
        known.history.take(trial.number, child)
        store.write_child(study, store.trial_id(trial), child)
        self._keep(known, study, trial, child, genome)
        return child, genome

    def _keep(
        self,
        known: KnownStudy,
        study: optuna.Study,
        trial: FrozenTrial,
        child: Child,
        genome: Genome | None,
    ) -> None:
        if genome is not None:
            reader = known.history.genomes
            store.write_genome(study, store.trial_id(trial), genome, reader, child.parents)
        known.in_flight[trial.number] = child, genome
        while len(known.in_flight) > _MOST_IN_FLIGHT:
            known.in_flight.pop(next(iter(known.in_flight)))

    def _placed(
        self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial
    ) -> tuple[Child, Genome | None]:
        """Return the place and the genome of a running trial, from the storage if need be."""
        if trial.number not in known.in_flight:
            stored = store.trial_by_number(study, trial.number) or trial
            child = store.read_child(stored.system_attrs) or Child(0, 0)
            known.in_flight[trial.number] = child, store.read_genome(stored, study)
        return known.in_flight[trial.number]

    # -- randomness --

    def _generator(
        self, known: KnownStudy, study: optuna.Study, child: Child, *key: int
    ) -> np.random.Generator:
        """Return the random numbers of one place of the history."""
        if known.seed is None:
            known.seed = self._study_seed(study)
        return np.random.default_rng([known.seed, child.generation, child.index, *key])

    def _start(self, known: KnownStudy, generation: int) -> Start:
        """Return what is known when a generation starts; a late straggler has it redone."""
        lowest = known.history.take_changes()
        if lowest is not None:
            del known.starts[lowest + 1 :]
        while len(known.starts) <= generation:
            known.starts.append(self._next_start(known))
        return known.starts[generation]

    def _next_start(self, known: KnownStudy) -> Start:
        generation = len(known.starts)
        before = known.starts[-1] if known.starts else None
        if before is None:
            best = np.zeros((0, len(known.history.study.directions)))
        else:
            losses = losses_of(known.history.generation(generation - 1))
            best = best_so_far([*before.best[-1:, None], losses])[-1:]
            best = np.concatenate([before.best, np.broadcast_to(best, (1, before.best.shape[1]))])
        settings = self._population, self._mutation_rate, self._threshold, self._scaling
        now = plan(generation, best, *settings)
        state = self._derive(known, generation, before.state if before else None, now)
        return Start(now, best, state)

    def _write_plan(self, known: KnownStudy, study: optuna.Study, generation: int) -> None:
        """Store what a generation starts with, for reports; nothing reads it back to search."""
        adapts = self._threshold is not None or self._scaling is not None
        if adapts and generation not in known.planned:
            now = self._start(known, generation).plan
            fields = [now.threshold, now.level.name, now.population, now.mutation_rate]
            store.write_generation(study, generation, fields)
            known.planned.add(generation)

    def _study_seed(self, study: optuna.Study) -> int:
        if self._seed is not None:
            return self._seed
        seed = store.read_setting(study, _SEED)
        if seed is None:
            seed = int(self._entropy.generate_state(1)[0])
            store.write_setting(study, _SEED, seed)
        return int(seed)

    def _fitness_of(self, known: KnownStudy) -> Fitness:
        """Return the order to use: with one objective there is nothing to combine."""
        if len(known.history.study.directions) == 1:
            return _SINGLE
        return self._fitness


_SINGLE: Final = Fitness(FitnessCalculatorType.CE)
