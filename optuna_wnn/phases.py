"""The phased search: chained studies, each seeded from the best trials of the one before."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_wnn import report
from optuna_wnn import storages
from optuna_wnn import store
from optuna_wnn.config import PhaseSection
from optuna_wnn.config import RunConfig
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.fitness import Fitness
from optuna_wnn.genome import Genome
from optuna_wnn.samplers import WNNGeneticSampler
from optuna_wnn.samplers import WNNTabuSearchSampler
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.history import History
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.history import violations_of
from optuna_wnn.schedule import Threshold
from optuna_wnn.schedule import best_so_far
from optuna_wnn.schedule import should_stop
from optuna_wnn.space import GenomeSpace
from optuna_wnn.space import set_genome
from optuna_wnn.store import Child
from optuna_wnn.tasks import Task
from optuna_wnn.tasks import load_task
from optuna_wnn.workers import is_gone
from optuna_wnn.workers import this_worker


DIRECTIONS: Final = ("minimize", "maximize")
METRICS: Final = ("cross-entropy", "accuracy")
_READY: Final = "ready"
_MAKER: Final = "maker"
_MAKER_PATIENCE: Final = 60.0  # seconds in which a maker adds at least one trial
_MAKER_START: Final = 1.0  # seconds in which it says who it is


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
    goes on inside its generation, and nothing is evaluated twice.

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
        self.spaces = [self._space(phase) for phase in config.phases]
        self.evaluator = evaluator or _evaluator(config, self.task)
        self._fitness = config.fitness.build()
        self._watch: Callable[[Progress], None] = lambda progress: None
        self._thresholds: dict[int, Threshold] = {}
        # Last, so that a mistake in what comes before leaves no database behind.
        self.storage = storage if storage is not None else storages.open_storage(config.storage)

    def watch(self, watcher: Callable[[Progress], None]) -> None:
        """Have ``watcher`` called whenever something happened."""
        self._watch = watcher

    def run(self) -> report.RunSummary:
        """Run what is left of the phases and return the final table.

        Raises:
            InputError: If the storage has another run of the same name.
            KeyboardInterrupt: When the user interrupts; the run can be resumed.
        """
        before: optuna.Study | None = None
        self._check_same()
        for index, phase in enumerate(self.config.phases):
            study = self._open(index, before)
            if report.finished(study) is None:
                self._search(index, phase, study)
            before = study
        return report.summarise(self.storage, self.config.name)

    # -- studies --

    def study_name(self, index: int) -> str:
        """Return the name of a phase's study."""
        return f"{self.config.name}/{index + 1}-{self.config.phases[index].label}"

    def _space(self, phase: PhaseSection) -> GenomeSpace:
        space = self.config.space
        middle = (sum(space.neurons) // 2, sum(space.bits) // 2)
        return GenomeSpace.for_task(
            self.task,
            neurons=space.neurons,
            bits=space.bits,
            free=phase.free,
            start=(space.start_neurons or middle[0], space.start_bits or middle[1]),
        )

    def _sampler(
        self, index: int, phase: PhaseSection, threshold: Threshold | None
    ) -> GenomeSampler:
        scaling = self.config.scaling.build() if self.config.scaling is not None else None
        seed = int(np.random.SeedSequence([self.config.seed, index]).generate_state(1)[0])
        if phase.method == "ga":
            return WNNGeneticSampler(
                seed=seed,
                fitness=self._fitness,
                population_size=phase.population_size,
                tournament_size=phase.tournament_size,
                crossover_rate=phase.crossover_rate,
                crossover=phase.crossover,
                mutation_rate=phase.mutation_rate,
                threshold=threshold,
                scaling=scaling,
            )
        return WNNTabuSearchSampler(
            seed=seed,
            fitness=self._fitness,
            n_neighbors=phase.n_neighbors,
            tabu_tenure=phase.tabu_tenure,
            n_sources=phase.n_sources,
            threshold=threshold,
            scaling=scaling,
        )

    def _threshold(self, index: int, before: optuna.Study | None) -> Threshold | None:
        """Return a phase's accuracy bars: they go on from where the phase before ended."""
        wanted = self.config.threshold
        if wanted is None:
            return None
        phase = self.config.phases[index]
        size = phase.population_size if phase.method == "ga" else phase.n_neighbors
        ramp = max(1, phase.trials // size)
        share = (index + 1) / len(self.config.phases)
        end = wanted.start + (wanted.end - wanted.start) * share
        start, final = wanted.start, wanted.end
        if before is not None:
            history = _history(before)
            earlier = report.read_threshold(before)
            start = earlier.bar(history.newest) if earlier is not None else start
            if wanted.kind == "quantile":
                best = self._ranked(before, history)[: phase.population_size]
                end = float(np.quantile([-record.losses[1] for record in best], end))
        elif wanted.kind == "quantile":
            return Threshold(0.0, 0.0)
        end = max(start, end)
        return Threshold(start, end, final if wanted.kind == "absolute" else end, ramp)

    def _check_same(self) -> None:
        """Check that studies of this name, if there are any, are of this configuration.

        Raises:
            InputError: If they are not; the line shows the difference.
        """
        wanted = self._identity()
        for study_name in report.study_names(self.storage, self.config.name):
            study = optuna.load_study(study_name=study_name, storage=self.storage)
            started = report.read_configuration(study)
            if started is None:
                continue  # killed before it was written
            changes = list(_differences(started, wanted))
            if changes:
                more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
                raise InputError(
                    f"run {self.config.name}: it was started with another configuration: "
                    f"{'; '.join(changes[:3])}{more}; choose another --name or undo the change"
                )

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on: configuration and data."""
        return {**self.config.identity(), "data": self.task.digest}

    def _open(self, index: int, before: optuna.Study | None) -> optuna.Study:
        """Return a phase's study, created and seeded if it was not yet."""
        phase, name = self.config.phases[index], self.study_name(index)
        try:
            study = optuna.create_study(
                study_name=name, storage=self.storage, directions=DIRECTIONS
            )
            is_maker = True
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=self.storage)
            is_maker = _is_left_half_made(study)
        store.register_worker(study, this_worker())
        # Once the study is made, what it was made with holds, whatever trials came late.
        threshold = self._threshold(index, before) if is_maker else report.read_threshold(study)
        if threshold is not None:
            self._thresholds[index] = threshold
        study.sampler = self._sampler(index, phase, threshold)
        # A kill between any two of these steps is made good by doing them again.
        if is_maker:
            store.write_setting(study, _MAKER, this_worker())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(METRICS))
            report.write_configuration(study, self._identity())
            self.spaces[index].write(study)
            if threshold is not None:
                report.write_threshold(study, threshold)
            report.describe(study, self.config.name, index, phase.label, before)
            if index == 0:
                report.write_baselines(study, self.task.baselines)
            if before is not None:
                self._seed(index, study, before, threshold)
            store.write_setting(study, _READY, True)
        self._close_stale(study)
        return study

    def _seed(
        self,
        index: int,
        study: optuna.Study,
        before: optuna.Study,
        threshold: Threshold | None,
    ) -> None:
        """Put the best trials of the phase before into the study's first generation."""
        phase, space = self.config.phases[index], self.spaces[index]
        children = [store.read_child(t.system_attrs) for t in store.all_trials(study)]
        there = {child.index for child in children if child is not None}
        history = _history(before)
        trials = store.all_trials(before)  # after it: another worker's last trial may end now
        ranked = self._ranked(before, history)
        for place, record in enumerate(ranked[: phase.population_size]):
            if place in there:
                continue
            genome = history.genomes.read(record.number)
            model = trials[record.number]
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    values=model.values,
                    params=space.parameters(genome),
                    distributions=dict(space.distributions()),
                    user_attrs={
                        **model.user_attrs,
                        report.SEEDED_FROM: f"{before.study_name} #{record.number}",
                    },
                    system_attrs={
                        **store.child_attributes(
                            Child(0, place, handle=genome.handle, is_seed=True)
                        ),
                        **store.genome_attributes(genome),
                        **store.cluster_loss_attributes(record.cluster_losses),
                        **_constraint(threshold, -record.losses[1]),
                    },
                )
            )

    def _ranked(self, study: optuna.Study, history: History) -> list[Record]:
        """Return a phase's trials with values, best first, each genome once."""
        threshold = report.read_threshold(study)
        slack = threshold.slack(history.newest) if threshold is not None else 0.0
        records = list(history.records())
        order = self._fitness.order(losses_of(records), violations_of(records, slack))
        by_genome = {records[i].final_handle: records[i] for i in reversed(order.tolist())}
        return list(reversed(by_genome.values()))

    def _close_stale(self, study: optuna.Study) -> None:
        """Close the running trials of workers that are gone, and what this one left behind."""
        running = [t for t in store.all_trials(study) if t.state == TrialState.RUNNING]
        workers = [child.worker if child else "" for child in map(_child, running)]
        # One without a name was killed before it took a place, unless it is just starting.
        others_work = not all(map(_is_done, store.registered_workers(study)))
        for trial, worker in zip(running, workers, strict=True):
            if _is_done(worker) if worker else not others_work:
                store.mark_stale(study, trial)

    # -- one phase --

    def _search(self, index: int, phase: PhaseSection, study: optuna.Study) -> None:
        sampler = study.sampler
        assert isinstance(sampler, GenomeSampler)
        history = sampler.history(study)
        history.look(len(store.all_trials(study)))
        pace = _Pace()
        self._tell(index, phase, history, "start", pace)
        while True:
            reason = self._end(index, phase, study, sampler, history)
            if reason:
                break
            number = self._evaluate_one(index, phase, study)
            history.look_ahead(number, ())  # other workers count as well
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
        if newest < 1 or history.lost_place() or not sampler.is_full(study, newest):
            return ""
        losses = [losses_of(history.generation(g)) for g in range(newest + 1)]
        rule = phase.early_stopping
        scaling = self.config.scaling.build() if self.config.scaling is not None else None
        if should_stop(best_so_far(losses), rule, scaling):
            return f"no progress for {rule.patience} generations"
        return ""

    def _evaluate_one(self, index: int, phase: PhaseSection, study: optuna.Study) -> int:
        """Evaluate one more trial and return its number."""
        trial = study.ask()
        try:
            started = time.perf_counter()
            genome, evaluation = self._evaluate(index, phase, trial)
            seconds = time.perf_counter() - started
            child = store.read_child(store.system_attributes(trial))
            set_genome(trial, genome, evaluation.cluster_losses)
            threshold = self._thresholds.get(index)
            if threshold is not None:
                missed = threshold.highest - evaluation.accuracy
                store.write_constraint(trial, missed)
                bar = threshold.bar(child.generation if child is not None else 0)
                trial.set_user_attr("threshold", round(bar, 6))
            trial.set_user_attr("neurons", genome.n_neurons)
            trial.set_user_attr("memory_kib", round(self.config.memory.kib(genome), 1))
            trial.set_user_attr("seconds", round(seconds, 4))
            study.tell(trial, (evaluation.cross_entropy, evaluation.accuracy))
            return trial.number
        except KeyboardInterrupt:
            running = store.trial_by_number(study, trial.number)
            if running is not None and running.state == TrialState.RUNNING:
                store.mark_stale(study, running)
            raise
        except Exception:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise

    def _evaluate(
        self, index: int, phase: PhaseSection, trial: Trial
    ) -> tuple[Genome, Evaluation]:
        """Return the genome that a trial ends with, best neurons first, and how good it is."""
        space = self.spaces[index]
        genome = space.suggest(trial)
        if phase.refine_steps:
            # The handle seeds it: what a genome is refined to depends on nothing else.
            return self.evaluator.refine(
                genome, space.bounds, phase.free, phase.refine_steps, genome.handle
            )
        evaluation = self.evaluator.evaluate(genome)
        return genome.reordered(evaluation.neuron_order), evaluation

    def _finish(self, index: int, study: optuna.Study, history: History, reason: str) -> None:
        """Note how the phase ended, and what its best genome does on the test part."""
        ranked = self._ranked(study, history)
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
        best = pace.best(self._fitness, history)
        self._watch(
            Progress(
                phase=index,
                n_phases=len(self.config.phases),
                study=self.study_name(index),
                generation=max(history.newest, 0),
                n_trials=history.n_finished() - len(history.seeds()),
                most_trials=phase.trials,
                best=best,
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


def _history(study: optuna.Study) -> History:
    """Return all that a study's trials tell."""
    history = History(study)
    history.look(len(store.all_trials(study)))
    return history


def _constraint(threshold: Threshold | None, accuracy: float) -> dict[str, list[float]]:
    """Return the system attributes that say by how much an accuracy misses the final bar."""
    return store.constraint_attributes([threshold.highest - accuracy] if threshold else [])


def _evaluator(config: RunConfig, task: Task) -> Evaluator:
    try:
        return create_evaluator(
            task, config.memory, backend=config.backend, threads=config.threads
        )
    except InputError as error:  # in a configuration, these keys stand at the top
        raise InputError(str(error).removeprefix("evaluator.")) from error


def _is_done(worker: str) -> bool:
    """Return whether a worker does nothing at present: it is gone, or between two trials."""
    return worker == this_worker() or is_gone(worker)


def _is_left_half_made(study: optuna.Study) -> bool:
    """Wait until a study is made; return whether its maker is gone before that."""
    seen: tuple[int, str | None] = (-1, None)
    since = time.monotonic()
    while store.read_setting(study, _READY) is None:
        maker = store.read_setting(study, _MAKER)
        now = len(store.all_trials(study)), maker
        if now != seen:
            seen, since = now, time.monotonic()
        # Of a maker on another host one knows only whether it makes progress.
        patience = _MAKER_PATIENCE if maker else _MAKER_START
        if (maker and _is_done(maker)) or time.monotonic() - since > patience:
            return True
        time.sleep(0.05)
    return False


def _varies(space: GenomeSpace) -> bool:
    """Return whether there is more than one value for what is free."""
    bounds = space.bounds
    varies = {
        "neurons": bounds.neurons[0] < bounds.neurons[1],
        "bits": bounds.bits[0] < bounds.bits[1],
        "connections": bounds.bits[0] < int(bounds.visible_inputs.max()),
    }
    return any(varies[dimension] for dimension in space.free)


def _child(trial: FrozenTrial) -> Child | None:
    return store.read_child(trial.system_attrs)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two JSON documents, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for i, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from _differences(before, now, f"{path}.{i}")
        if len(old) != len(new):
            yield f"{path} had {len(old)} entries, has {len(new)}"
    elif old != new and path == "data":
        yield f"the task's data changed (from digest {old} to {new})"
    elif old != new:
        yield f"{path} was {json.dumps(old)}, is {json.dumps(new)}"
