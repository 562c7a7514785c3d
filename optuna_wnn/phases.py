"""The phased search: chained studies, each seeded from the best trials of the one before."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn import report
from optuna_wnn import storages
from optuna_wnn.chain import StudyChain
from optuna_wnn.chain import spaces_of
from optuna_wnn.config import PhaseSection
from optuna_wnn.config import RunConfig
from optuna_wnn.crew import Crew
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.fitness import Fitness
from optuna_wnn.genome import Genome
from optuna_wnn.outages import Outage
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.begin import begin
from optuna_wnn.samplers.history import History
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.history import violations_of
from optuna_wnn.schedule import best_so_far
from optuna_wnn.schedule import should_stop
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store.gate import Gate
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_of
from optuna_wnn.store.reader import genome_attributes
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.store.running import finish_trial
from optuna_wnn.store.running import show
from optuna_wnn.store.trials import constraint_attributes
from optuna_wnn.store.trials import mark_stale
from optuna_wnn.tasks import Task
from optuna_wnn.tasks import load_task


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: Index of the phase, from 0.
        n_phases: How many phases there are.
        study: Name of the phase's study.
        generation: Its newest generation, or iteration.
        n_trials: How many trials the phase has evaluated, in this process or before.
        most_trials: How many it evaluates at the most.
        best: Cross-entropy and accuracy of its best trial, or ``None`` before the first.
        speed: Trials per second in this process; 0 before the first.
        event: ``start``, ``trial``, ``generation`` (a trial that made it full) or ``end``.
        reason: Why it ended; empty before.
    """

    phase: int
    n_phases: int
    study: str
    generation: int
    n_trials: int
    most_trials: int
    best: tuple[float, float] | None
    speed: float
    event: str
    reason: str = ""


def quieten_optuna() -> None:
    """Have Optuna log warnings only, not every trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class PhasedSearch:
    """Runs the phases of a configuration as chained Optuna studies.

    Trial 0 of a phase is the best trial of the phase before; the rest of its first generation
    are the best of that phase's other trials. Everything that a run is lives in the storage:
    run it again, in this process or another, and finished phases are skipped, an unfinished one
    goes on inside its generation, and nothing is evaluated twice. That is also what is done where
    a storage stops answering for a while.

    Args:
        config: What to run.
        storage: Where its studies live; ``None`` opens ``config.storage``.
        task: The task; ``None`` loads the one that the configuration names.
        evaluator: What evaluates genomes; ``None`` creates the configured one.

    Raises:
        InputError: If the configuration does not fit the task, or the storage cannot be opened.
    """

    def __init__(
        self,
        config: RunConfig,
        storage: BaseStorage | None = None,
        *,
        task: Task | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.config = config
        self.task = task or load_task(config.task.kind, **config.task.options)
        self.spaces = spaces_of(config, self.task)
        self._fitness = config.fitness.build()
        self._watch: Callable[[Progress], None] = lambda progress: None
        self._outage = Outage()
        # What an evaluation came to, until it is stored: an outage does not cost it.
        self._unstored: tuple[tuple[int, str], tuple[Genome, Evaluation]] | None = None
        # Last, so that a mistake in what comes before leaves no database behind.
        evaluator = evaluator or _evaluator(config, self.task)
        part_reading(self.task, config.memory, "fitness")  # is there anything to evaluate on?
        self.storage = storage if storage is not None else storages.open_storage(config.storage)
        self._chain = StudyChain(config, self.task, evaluator, self.spaces, self.storage)
        self._gate = Gate(self.storage, f"{config.name}/gate")

    @property
    def evaluator(self) -> Evaluator:
        """What evaluates genomes, as in the phase that was opened last."""
        return self._chain.evaluator

    def watch(self, watcher: Callable[[Progress], None]) -> None:
        """Have ``watcher`` called whenever something happened."""
        self._watch = watcher

    def run(self) -> report.RunSummary:
        """Run what is left of the phases and return the final table.

        Raises:
            InputError: If the storage has another run of the same name, or memory ran out.
            StorageError: If the storage fails for long; the run can be resumed.
            KeyboardInterrupt: When the user interrupts; the run can be resumed.
        """
        try:
            return self._outage.keep_trying(self._run)
        except (MemoryError, RuntimeError) as error:
            if not _ran_out(error):
                raise
            reason = str(error) or "no more is to be had"
            raise InputError(
                f"run {self.config.name}: memory ran out ({reason}); "
                "nothing is lost: free some and run the same again, or start another run with a "
                "smaller space"
            ) from error

    def _run(self) -> report.RunSummary:
        before: optuna.Study | None = None
        self._chain.check_same()
        for index, phase in enumerate(self.config.phases):
            study = self._chain.open(index, before)
            if report.finished(study) is None:
                self._search(index, phase, study)
            before = study
        return report.summarise(self.storage, self.config.name)

    # -- one phase --

    def _search(self, index: int, phase: PhaseSection, study: optuna.Study) -> None:
        sampler, crew = study.sampler, Crew(study)
        assert isinstance(sampler, GenomeSampler)
        history = sampler.history(study)
        history.refresh()
        pace = _Pace()
        self._tell(index, phase, history, "start", pace)
        reason = ""

        def may_begin() -> bool:
            nonlocal reason
            reason = self._end(index, phase, study, sampler, history)
            return not reason

        with crew.at_work():
            while True:
                begun = begin(sampler, study, crew, self._gate, self._shown(index), may_begin)
                if begun is None:
                    break
                self._evaluate_one(index, phase, study, *begun)
                pace.count()
                event = "generation" if sampler.is_full(study, history.newest) else "trial"
                self._tell(index, phase, history, event, pace)
            self._finish(index, study, history, reason)
        self._tell(index, phase, history, "end", pace, reason)

    def _end(
        self,
        index: int,
        phase: PhaseSection,
        study: optuna.Study,
        sampler: GenomeSampler,
        history: History,
    ) -> str:
        """Return why the phase ends now, or nothing."""
        if history.n_finished() - len(history.seeds()) >= phase.trials:
            return f"all {phase.trials} trials"
        if not _varies(self.spaces[index]) and (history.seeds() or sampler.is_full(study, 0)):
            return f"{' and '.join(phase.free)} cannot change within the bounds"
        newest = history.newest
        if newest < 1 or history.lost_places() or not sampler.is_full(study, newest):
            return ""
        rule = phase.early_stopping
        if should_stop(best_so_far(history.lowest()), rule, self.config.adaptive_scaling()):
            return f"no progress for {rule.patience} generations"
        return ""

    def _shown(self, index: int) -> Callable[[Child, Genome], dict[str, Any]]:
        """Return what says how large the genome of a trial is, and which bar it must meet."""
        threshold = self._chain.thresholds.get(index)

        def shown(child: Child, genome: Genome) -> dict[str, Any]:
            bar = {} if threshold is None else {"threshold": threshold.bar(child.generation)}
            return {**self._sizes(genome), **{name: round(x, 6) for name, x in bar.items()}}

        return shown

    def _kib(self, genome: Genome) -> float:
        return self.config.memory.kib(genome, len(self.task.train))

    def _sizes(self, genome: Genome) -> dict[str, Any]:
        return {
            "neurons": genome.n_neurons,
            report.SIZE: round(self._kib(genome), 1),
        }

    def _evaluate_one(
        self,
        index: int,
        phase: PhaseSection,
        study: optuna.Study,
        trial: FrozenTrial,
        given: Genome,
    ) -> None:
        """Evaluate a trial and store what it came to."""
        key = index, given.checksum
        try:
            if self._unstored is None or self._unstored[0] != key:
                self._unstored = key, self._evaluate(index, phase, given)
            genome, evaluation = self._unstored[1]
        except KeyboardInterrupt:
            self._give_up(study, trial)
            raise
        except Exception as error:
            if _ran_out(error):
                self._give_up(study, trial)
                raise
            self._outage.not_mine(error)
            finish_trial(study, trial, TrialState.FAIL)
            raise
        try:
            self._store(index, study, trial, genome, evaluation)
            self._unstored = None
        except UpdateFinishedTrialError:
            pass  # another worker took this one for dead and gave its place out
        except KeyboardInterrupt:
            self._give_up(study, trial)
            raise

    def _give_up(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Give a trial's place back; where that fails, who goes on does so."""
        with contextlib.suppress(Exception):
            mark_stale(study, trial)

    def _store(
        self,
        index: int,
        study: optuna.Study,
        trial: FrozenTrial,
        genome: Genome,
        evaluation: Evaluation,
    ) -> None:
        parents, reader = child_of(trial).parents, genome_reader(study)
        losses = evaluation.cluster_losses
        attributes: dict[str, Any] = genome_attributes(genome, losses, reader, parents)
        for name, size in self._sizes(genome).items():
            if trial.user_attrs[name] != size:  # a refined genome may have grown
                show(study, trial, name, size)
        threshold = self._chain.thresholds.get(index)
        if threshold is not None:
            missed = threshold.highest - evaluation.accuracy
            attributes |= constraint_attributes([missed])
        known = evaluation.cross_entropy, evaluation.accuracy, self._kib(genome)
        values = known[: self.config.fitness.n_objectives]
        if any(map(math.isnan, values)):
            finish_trial(study, trial, TrialState.FAIL, attributes=attributes)
        else:
            # Not stored if another worker took this one for dead and gave its place out.
            finish_trial(study, trial, TrialState.COMPLETE, values, attributes)

    def _evaluate(
        self, index: int, phase: PhaseSection, genome: Genome
    ) -> tuple[Genome, Evaluation]:
        """Return the genome that a trial ends with, best neurons first, and how good it is."""
        if phase.refine_steps:
            # The handle seeds it: what a genome is refined to depends on nothing else.
            bounds, steps = self.spaces[index].bounds, phase.refine_steps
            return self.evaluator.refine(
                genome, bounds, phase.free, steps, genome.handle, phase.refine_moves
            )
        evaluation = self.evaluator.evaluate(genome)
        return genome.reordered(evaluation.neuron_order), evaluation

    def _finish(self, index: int, study: optuna.Study, history: History, reason: str) -> None:
        """Note how the phase ended, and what its best genome does on the test part."""
        if report.finished(study) is not None:
            return  # another worker was there first
        ranked = self._chain.ranked(study, history)
        if not ranked:
            raise InputError(
                f"study {study.study_name}: none of its trials could be evaluated; see their "
                "state in the dashboard"
            )
        best = ranked[0].number
        test = self._on_test(history.genomes.read(best))
        first = None
        if index == 0:  # not trial 0, which a kill may have left without a genome
            first = self._on_test(history.genomes.read(next(history.records()).number))
        if report.finished(study) is None:
            report.finish(study, reason, best, test, first)

    def _on_test(self, genome: Genome) -> tuple[float, float] | None:
        if not len(self.task.test):
            return None
        result = self.evaluator.evaluate(genome, "test")
        return result.cross_entropy, result.accuracy

    def _tell(
        self,
        index: int,
        phase: PhaseSection,
        history: History,
        event: str,
        pace: _Pace,
        reason: str = "",
    ) -> None:
        if event in ("trial", "generation"):
            self._outage.over()
        self._watch(
            Progress(
                phase=index,
                n_phases=len(self.config.phases),
                study=self._chain.name(index),
                generation=max(history.newest, 0),
                n_trials=history.n_finished() - len(history.seeds()),
                most_trials=phase.trials,
                best=pace.best(self._fitness, history),
                speed=pace.speed,
                event=event,
                reason=reason,
            )
        )


class _Pace:
    """How fast this process evaluates, and the best trial that it knows of."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._count = 0
        self._seen = 0
        self._best: Record | None = None

    def count(self) -> None:
        """Note that a trial was evaluated."""
        self._count += 1

    @property
    def speed(self) -> float:
        """Trials per second."""
        return self._count / max(time.perf_counter() - self._started, 1e-9)

    def best(self, fitness: Fitness, history: History) -> tuple[float, float] | None:
        """Return cross-entropy and accuracy of the best trial; only new ones are looked at."""
        records = history.latest(self._seen)
        self._seen += len(records)
        if self._best is not None:
            records = [self._best, *records]
        if records:
            self._best = records[int(fitness.order(losses_of(records), violations_of(records))[0])]
        if self._best is None:
            return None
        return self._best.losses[0], -self._best.losses[1]


def _evaluator(config: RunConfig, task: Task) -> Evaluator:
    try:
        return create_evaluator(
            task,
            config.memory,
            backend=config.backend,
            threads=config.threads,
            device_bytes=config.device_bytes,
        )
    except InputError as error:  # in a configuration, these keys stand at the top
        raise InputError(str(error).removeprefix("evaluator.")) from error


def _ran_out(error: Exception) -> bool:
    """Return whether an error says that memory ran out: a thread needs some for its stack."""
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def _varies(space: GenomeSpace) -> bool:
    """Return whether there is more than one value for what is free."""
    bounds = space.bounds
    varies = {
        "neurons": bounds.neurons[0] < bounds.neurons[1],
        "bits": bounds.bits[0] < bounds.bits[1],
        "connections": bounds.bits[0] < int(bounds.visible_inputs.max()),
    }
    return any(varies[dimension] for dimension in space.free)
