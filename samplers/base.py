"""What both samplers share: places in the history, seeds of randomness, giving out genomes."""

from __future__ import annotations

import abc
import contextlib
import itertools
import threading
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from typing import Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn.crew import Place
from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.genome import Genome
from optuna_wnn.samplers.history import History
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.known import Held
from optuna_wnn.samplers.known import KnownStudy
from optuna_wnn.samplers.known import Start
from optuna_wnn.samplers.parameters import conforms
from optuna_wnn.samplers.parameters import random_value
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import Plan
from optuna_wnn.schedule import Threshold
from optuna_wnn.schedule import plan
from optuna_wnn.space import GENOME_DISTRIBUTION
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store.genomes import GENOME_PARAMETER
from optuna_wnn.store.genomes import write_genome
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import read_child
from optuna_wnn.store.places import write_child
from optuna_wnn.store.settings import identity
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_generation
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import fixed_parameters
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.workers import this_worker


_SEED: Final = "seed"
_ATTEMPTS: Final = 64  # draws of a genome that the study does not have yet
_MOST_STUDIES: Final = 8  # studies that a sampler remembers at a time
_MOST_IN_FLIGHT: Final = 4096  # running trials whose genome is kept in memory


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
        if seed is not None and seed < 0:
            raise InputError(f"{type(self).__name__}: seed is {seed}, but must be at least 0")
        self._seed = seed
        self._population = population
        self._mutation_rate = mutation_rate
        self._threshold = threshold
        self._scaling = scaling
        self._fitness = Fitness.of(fitness)
        self._entropy = np.random.SeedSequence(seed)
        self._studies: dict[tuple[int, int], KnownStudy] = {}  # least recently used first
        self._lock = threading.Lock()

    def _require(self, *arguments: tuple[str, Any, bool, str]) -> None:
        """Check arguments, each given as its name, its value, whether it holds, and what must.

        Raises:
            InputError: If one does not hold.
        """
        for name, value, holds, wanted in arguments:
            if not holds:
                raise InputError(f"{type(self).__name__}: {name} is {value}, but must be {wanted}")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_studies"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._studies = {}
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """Draw a new seed, for studies that this sampler has not sampled for yet.

        Optuna calls it for every trial where ``n_jobs`` is not 1. Workers that share a seed do
        not repeat each other here, so a study that was started keeps its seed.
        """
        self._seed = None
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
        if known.history.is_over(trial.number):
            # The study was deleted, and another one made in its place.
            known = self._known(study, anew=True)
        with known.lock:
            known.history.look(trial.number)
            child = read_child(trial.system_attrs)
            if child is None:
                self._take_place(known, study, trial)
            else:  # a copy of a trial whose worker died, as Optuna's retry callback makes it
                child = replace(child, worker=this_worker())
                known.history.take(trial.number, child)
                write_child(study, trial, child)
                self._hold(known, trial, child, self._fixed_genome(known, trial))

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
            held = self._held(known, study, trial)
            child, genome = held.child, held.genome
            is_genome = (
                param_name == GENOME_PARAMETER and param_distribution == GENOME_DISTRIBUTION
            )
            if genome is None and (is_genome or held.is_named):
                # The first trial of a study: the objective has only now told the space.
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

    @contextlib.contextmanager
    def knowing(self, study: optuna.Study) -> Iterator[KnownStudy]:
        """Yield what is known of a study, for one thread at a time."""
        known = self._known(study)
        with known.lock:
            yield known

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

    def _known(self, study: optuna.Study, anew: bool = False) -> KnownStudy:
        with self._lock:
            key = identity(study)
            known = self._studies.pop(key, None)
            if known is None or anew:
                known = KnownStudy(study)
            self._studies[key] = known
            while len(self._studies) > _MOST_STUDIES:
                self._studies.pop(next(iter(self._studies)))
            return known

    def _take_place(self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take a free place; give way and take another if some other worker took it as well."""
        history, skip = known.history, 0
        while True:
            child, genome = self.made(known, study, self._free_place(known, skip), trial)
            history.take(trial.number, child)
            write_child(study, trial, child)
            # Of two workers that write before they look, at least one sees the other. If both
            # do, both give way, each to another place.
            history.look_ahead(trial.number, known.in_flight)
            rivals = history.rivals(trial.number, child)
            if not rivals:
                break
            skip = sum(rival < trial.number for rival in rivals)
        self._keep(known, study, trial, child, genome)
        self.write_plan(known, study, child.generation)

    def _free_place(self, known: KnownStudy, skip: int = 0) -> Place:
        """Return the first free place after ``skip`` others."""
        history = known.history
        generations = itertools.count(max(history.newest, 0))
        in_order = itertools.chain.from_iterable(self.free_in(known, g) for g in generations)
        free = itertools.chain(history.lost_places(), in_order)
        return next(itertools.islice(free, skip, None))

    def free_in(self, known: KnownStudy, generation: int) -> Iterator[Place]:
        """Yield the places of a generation that no live trial has, in order."""
        for index in range(self._size(known, generation)):
            if known.history.is_free((generation, index)):
                yield generation, index

    def made(
        self,
        known: KnownStudy,
        study: optuna.Study,
        place: Place,
        trial: FrozenTrial | None = None,
    ) -> tuple[Child, Genome | None]:
        """Return who takes a place and, where the space is known, its genome.

        A trial that was there before may bring its genome, or parameters that name one.
        """
        generation, index = place

        def draw(*key: int) -> np.random.Generator:
            return self._generator(known, study, Child(generation, index), *key)

        child, make = self._conceive(known, generation, index, draw)
        child = replace(child, worker=this_worker())
        genome = None
        if trial is not None:
            if fixed_parameters(trial):  # it does not make the move that it was given
                child = replace(child, attribute=None, reverse=None)
            genome = self._fixed_genome(known, trial)
        if genome is not None:
            return replace(child, handle=genome.handle), genome
        if make is None:
            return child, None
        # A genome that the study has already is not evaluated again, unless it has them all.
        for attempt in range(_ATTEMPTS):
            genome, child = make(attempt)
            if not known.history.is_known(genome.handle, generation, index):
                break
        return replace(child, worker=this_worker()), genome

    def _fixed_genome(self, known: KnownStudy, trial: FrozenTrial) -> Genome | None:
        """Return the genome that a trial has before it starts.

        One that is stored with it; or the one that its fixed parameter ``genome`` names, if the
        study has evaluated it; or else the one that this number seeds, as it would under any
        other sampler.
        """
        reader, handle = known.history.genomes, _fixed_handle(trial)
        stored = reader.unpack(trial.system_attrs, f"trial {trial.number}")
        if stored is not None or handle is None or known.space is None:
            return stored
        number = known.history.trial_of(handle)
        return known.space.seeded(handle) if number is None else reader.read(number)

    def _give_out(
        self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial, child: Child
    ) -> tuple[Child, Genome | None]:
        if known.space is None:
            known.space = GenomeSpace.read(study)
            known.starts.clear()  # only trials with a genome can have children now
        if known.space is None:
            return child, None
        child, genome = self.made(known, study, (child.generation, child.index), trial)
        known.history.take(trial.number, child)
        write_child(study, trial, child)
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
            write_genome(study, trial, genome, child.parents)
        self._hold(known, trial, child, genome)

    def _hold(
        self, known: KnownStudy, trial: FrozenTrial, child: Child, genome: Genome | None
    ) -> None:
        is_named = _fixed_handle(trial) is not None
        known.in_flight[trial.number] = Held(child, genome, is_named)
        while len(known.in_flight) > _MOST_IN_FLIGHT:
            known.in_flight.pop(next(iter(known.in_flight)))

    def _held(self, known: KnownStudy, study: optuna.Study, trial: FrozenTrial) -> Held:
        """Return the place and the genome of a running trial, from the storage if need be."""
        if trial.number not in known.in_flight:
            stored = trial_by_number(study, trial.number) or trial
            child = read_child(stored.system_attrs) or known.history.outside(trial.number)
            genome = known.history.genomes.unpack(stored.system_attrs, f"trial {trial.number}")
            self._hold(known, stored, child, genome)
        return known.in_flight[trial.number]

    # -- randomness --

    def _generator(
        self, known: KnownStudy, study: optuna.Study, child: Child, *key: int
    ) -> np.random.Generator:
        """Return the random numbers of one place of the history."""
        if known.seed is None:
            known.seed = self._study_seed(study)
        place = (child.generation, child.index, *key)
        return np.random.default_rng(np.random.SeedSequence(known.seed, spawn_key=place))

    # -- what is known when a generation starts --

    def _parents(self, known: KnownStudy, generation: int) -> list[Record]:
        """Return the records of a generation that can have children."""
        records = known.history.generation(generation)
        return [r for r in records if known.space is None or r.final_handle >= 0]

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
        best = np.full(known.history.n_objectives, np.inf)
        if before is not None:
            losses = losses_of(known.history.generation(generation - 1))
            best = np.minimum(before.best, losses.min(axis=0)) if len(losses) else before.best
        rows = []
        if self._scaling is not None and before is not None:
            rows = [*(start.best for start in known.starts[1:]), best]
        settings = self._population, self._mutation_rate, self._threshold, self._scaling
        now = plan(generation, np.array(rows).reshape(len(rows), best.size), *settings)
        state = self._derive(known, generation, before.state if before else None, now)
        return Start(now, best, state)

    def write_plan(self, known: KnownStudy, study: optuna.Study, generation: int) -> None:
        """Store what a generation starts with, for reports; nothing reads it back to search."""
        adapts = self._threshold is not None or self._scaling is not None
        if adapts and generation not in known.planned:
            now = self._start(known, generation).plan
            fields = [now.threshold, now.level.name, now.population, now.mutation_rate]
            write_generation(study, generation, fields)
            known.planned.add(generation)

    def _study_seed(self, study: optuna.Study) -> int:
        if self._seed is not None:
            return self._seed
        seed = read_setting(study, _SEED)
        if seed is None:
            seed = int(self._entropy.generate_state(1)[0])
            write_setting(study, _SEED, seed)
        return int(seed)

    def _fitness_of(self, known: KnownStudy) -> Fitness:
        """Return the order to use: with one objective there is nothing to combine."""
        if known.history.n_objectives == 1:
            return _SINGLE
        return self._fitness


def _fixed_handle(trial: FrozenTrial) -> int | None:
    """Return what ``enqueue_trial`` gave for the parameter ``genome``, if anything fitting."""
    value: Any = fixed_parameters(trial).get(GENOME_PARAMETER)
    return int(value) if conforms(GENOME_DISTRIBUTION, value) else None


_SINGLE: Final = Fitness(FitnessCalculatorType.CE)
