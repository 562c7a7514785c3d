"""The chain of a run's studies: making, seeding and opening them."""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any
from typing import Final

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_wnn import report
from optuna_wnn.config import DIRECTIONS
from optuna_wnn.config import METRICS
from optuna_wnn.config import PhaseSection
from optuna_wnn.config import RunConfig
from optuna_wnn.crew import Crew
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import MOST_NEURONS
from optuna_wnn.evaluators.base import NOT_REFINED
from optuna_wnn.samplers import WNNGeneticSampler
from optuna_wnn.samplers import WNNTabuSearchSampler
from optuna_wnn.samplers.base import GenomeSampler
from optuna_wnn.samplers.history import History
from optuna_wnn.samplers.history import Record
from optuna_wnn.samplers.history import losses_of
from optuna_wnn.samplers.history import violations_of
from optuna_wnn.schedule import Threshold
from optuna_wnn.sources import settings
from optuna_wnn.space import GenomeSpace
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_attributes
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_attributes
from optuna_wnn.store.running import add_trial
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.settings import write_setting
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import constraint_attributes
from optuna_wnn.store.trials import mark_stale
from optuna_wnn.store.trials import trial_by_number
from optuna_wnn.store.version import check_schema
from optuna_wnn.store.version import write_schema
from optuna_wnn.tasks import Task
from optuna_wnn.workers import this_worker


_READY: Final = "ready"
_MAKER: Final = "maker"
_MAKER_PATIENCE: Final = 60.0  # seconds in which a maker adds at least one trial
_MAKER_START: Final = 3.0  # seconds in which it says who it is
_TAKEOVER: Final = 1.0  # seconds over which those who wait spread who takes over


def spaces_of(config: RunConfig, task: Task) -> list[GenomeSpace]:
    """Return the space of every phase.

    Raises:
        InputError: If a space does not fit the task, an output could have more neurons than can
            be counted, or a phase refines what cannot be refined.
    """
    if task.clusters_per_output > 1 and any(phase.refine_steps for phase in config.phases):
        raise InputError(NOT_REFINED)
    space = config.space
    per_cluster, n_clusters = space.neurons[1], task.clusters_per_output
    if per_cluster * n_clusters > MOST_NEURONS:
        raise InputError(
            f"space.neurons: {per_cluster} in each of {n_clusters} clusters per output are "
            f"{per_cluster * n_clusters}, above {MOST_NEURONS}; lower it"
        )
    middle = (sum(space.neurons) // 2, sum(space.bits) // 2)
    return [
        GenomeSpace.for_task(
            task,
            neurons=space.neurons,
            bits=space.bits,
            free=phase.free,
            start=(space.start_neurons or middle[0], space.start_bits or middle[1]),
            start_contexts=space.start_contexts,
            moves=space.moves,
        )
        for phase in config.phases
    ]


class StudyChain:
    """The studies of a run, each seeded from the one before.

    Several processes may work on one run: the one that creates a study makes it, the others
    wait. A kill between any two steps of the making is made good by doing them again.

    Attributes:
        evaluator: What evaluates genomes; under the ``calibrated`` vote it has the gains of the
            phase that was opened last.
        thresholds: The accuracy bars of the phases that were opened, by index.

    Args:
        config: What to run.
        task: What is learnt.
        evaluator: What evaluates genomes.
        spaces: The space of every phase.
        storage: Where the studies live.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        evaluator: Evaluator,
        spaces: list[GenomeSpace],
        storage: BaseStorage,
    ) -> None:
        self.config = config
        self.task = task
        self.evaluator = evaluator
        self.spaces = spaces
        self.storage = storage
        self.thresholds: dict[int, Threshold] = {}
        self._fitness = config.fitness.build()

    def name(self, index: int) -> str:
        """Return the name of a phase's study."""
        return f"{self.config.name}/{index + 1}-{self.config.phases[index].label}"

    def _sampler(
        self, index: int, phase: PhaseSection, threshold: Threshold | None, seed: int
    ) -> GenomeSampler:
        common: dict[str, Any] = {
            "seed": int(np.random.SeedSequence([seed, index]).generate_state(1)[0]),
            "fitness": self._fitness,
            "threshold": threshold,
            "scaling": self.config.adaptive_scaling(),
        }
        if phase.method == "ga":
            return WNNGeneticSampler(
                population_size=phase.population_size,
                tournament_size=phase.tournament_size,
                crossover_rate=phase.crossover_rate,
                crossover=phase.crossover,
                mutation_rate=phase.mutation_rate,
                **common,
            )
        return WNNTabuSearchSampler(
            n_neighbors=phase.n_neighbors,
            tabu_tenure=phase.tabu_tenure,
            n_sources=phase.n_sources,
            improvement=phase.improvement,
            **common,
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
                best = self.ranked(before, history)[: phase.population_size]
                end = float(np.quantile([-record.losses[1] for record in best], end))
        elif wanted.kind == "quantile":
            return Threshold(0.0, 0.0)
        end = max(start, end)
        return Threshold(start, end, final if wanted.kind == "absolute" else end, ramp)

    def check_same(self) -> None:
        """Check that studies of this name, if there are any, are of this configuration.

        Raises:
            InputError: If they are not, or another version wrote them; the line shows the
                difference.
        """
        wanted = self._identity()
        for study_name in report.study_names(self.storage, self.config.name):
            study = optuna.load_study(study_name=study_name, storage=self.storage)
            check_schema(study)
            started = report.read_configuration(study)
            if started is None:
                continue  # killed before it was written
            changes = list(differences(started, wanted))
            if changes:
                more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
                raise InputError(
                    f"run {self.config.name}: it was started with another configuration: "
                    f"{'; '.join(changes[:3])}{more}; choose another --name or undo the change"
                )

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on: configuration and data."""
        return {**self.config.identity(), "data": self.task.digest}

    def open(self, index: int, before: optuna.Study | None) -> optuna.Study:
        """Return a phase's study, created and seeded if it was not yet."""
        phase, name = self.config.phases[index], self.name(index)
        n_objectives = self.config.fitness.n_objectives
        try:
            study = optuna.create_study(
                study_name=name, storage=self.storage, directions=DIRECTIONS[:n_objectives]
            )
            is_maker = True
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=self.storage)
            is_maker = False
        crew = Crew(study)
        if report.finished(study) is not None:
            if index == 0:  # another run of this name may have begun and ended meanwhile
                self.check_same()
            crew.look()
            self._close_stale(study, crew)
            return study
        if is_maker or index:
            crew.join()
            is_maker = is_maker or _is_left_half_made(study, crew)
        else:  # who is refused must not have counted as one at work: others leave it places
            is_maker = _is_left_half_made(study, crew)
            self.check_same()
            crew.join()
        # Once the study is made, what it was made with holds, whatever trials came late.
        threshold = self._threshold(index, before) if is_maker else report.read_threshold(study)
        if threshold is not None:
            self.thresholds[index] = threshold
        # A kill between any two of these steps is made good by doing them again.
        if is_maker:
            write_schema(study)
            write_setting(study, _MAKER, this_worker())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(METRICS[:n_objectives]))
            report.write_configuration(study, self._identity())
            self.spaces[index].write(study)
            report.write_input_groups(study, self.task.input_groups)
            if threshold is not None:
                report.write_threshold(study, threshold)
            report.describe(study, self.config.name, index, phase.label, before)
            report.write_seed(study, self._run_seed(study, before))
            if index == 0:
                report.write_settings(study, settings(self.config))
                report.write_baselines(study, self.task.baselines)
            self._calibrate(index, study, before)
            self._take_gains(study)
            if before is not None:
                self._seed(index, study, before, threshold)
            write_setting(study, _READY, True)
        # Read even by who made it: what is stored holds for all.
        study.sampler = self._sampler(index, phase, threshold, self._run_seed(study, before))
        if not is_maker:
            self._take_gains(study)
        self._close_stale(study, crew)
        return study

    def _calibrate(self, index: int, study: optuna.Study, before: optuna.Study | None) -> None:
        """Fit the gains of a phase to the best genome before it, or to one as it starts with."""
        if self.config.memory.vote != "calibrated" or report.read_gains(study) is not None:
            return
        if before is None:
            space = self.spaces[index]
            genome = space.starting_genome() or space.seeded(self._run_seed(study, before))
        else:
            history = _history(before)
            genome = history.genomes.read(self.ranked(before, history)[0].number)
        gains = self.evaluator.calibrated(genome).gains
        assert gains is not None
        report.write_gains(study, gains)

    def _take_gains(self, study: optuna.Study) -> None:
        """Have genomes evaluated with the gains that are stored with a phase, if there are any."""
        gains = report.read_gains(study)
        if gains is not None:
            self.evaluator = self.evaluator.with_gains(gains)

    def _run_seed(self, study: optuna.Study, before: optuna.Study | None) -> int:
        """Return what all random numbers of the run derive from; drawn if nothing says."""
        if self.config.seed is not None:
            return self.config.seed
        stored = report.read_seed(study)
        if stored is None and before is not None:
            stored = report.read_seed(before)
        return random.SystemRandom().randrange(2**32) if stored is None else stored

    def _seed(
        self,
        index: int,
        study: optuna.Study,
        before: optuna.Study,
        threshold: Threshold | None,
    ) -> None:
        """Put the best trials of the phase before into the study's first generation."""
        phase, space = self.config.phases[index], self.spaces[index]
        children = [read_child(t.system_attrs) for t in all_trials(study)]
        there = {child.index for child in children if child is not None}
        history = _history(before)
        ranked = self.ranked(before, history)
        for place, record in enumerate(ranked[: phase.population_size]):
            if place in there:
                continue
            genome = history.genomes.read(record.number)
            model = trial_by_number(before, record.number)
            assert model is not None  # for its record was read
            values, accuracy, losses = model.values, -record.losses[1], record.cluster_losses
            if self.evaluator.gains is not None:  # other gains, other values
                result = self.evaluator.evaluate(genome)
                accuracy, losses = result.accuracy, result.cluster_losses
                values = [result.cross_entropy, accuracy, *values[2:]]
            add_trial(
                study,
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    values=values,
                    params=space.parameters(genome),
                    distributions=dict(space.distributions()),
                    user_attrs={
                        **model.user_attrs,
                        report.SEEDED_FROM: f"{before.study_name} #{record.number}",
                    },
                    system_attrs={
                        **child_attributes(Child(0, place, handle=genome.handle, is_seed=True)),
                        **genome_attributes(genome, losses),
                        **_constraint(threshold, accuracy),
                    },
                ),
            )

    def ranked(self, study: optuna.Study, history: History) -> list[Record]:
        """Return a phase's trials with values, best first, each genome once."""
        threshold = report.read_threshold(study)
        slack = threshold.slack(history.newest) if threshold is not None else 0.0
        records = list(history.records())
        order = self._fitness.order(losses_of(records), violations_of(records, slack))
        by_genome = {records[i].final_handle: records[i] for i in reversed(order.tolist())}
        return list(reversed(by_genome.values()))

    def _close_stale(self, study: optuna.Study, crew: Crew) -> None:
        """Close the running trials of workers that are gone, and what this one left behind."""
        for trial in all_trials(study):
            if trial.state != TrialState.RUNNING:
                continue
            child = read_child(trial.system_attrs)
            worker = child.worker if child else ""
            # One without a name was killed before it took a place, unless it is just starting.
            if not crew.others() if not worker else _is_done(worker, crew):
                mark_stale(study, trial)


def _history(study: optuna.Study) -> History:
    """Return all that a study's trials tell."""
    history = History(study)
    history.refresh()
    return history


def _constraint(threshold: Threshold | None, accuracy: float) -> dict[str, list[float]]:
    """Return the system attributes that say by how much an accuracy misses the final bar."""
    return constraint_attributes([threshold.highest - accuracy] if threshold else [])


def _is_done(worker: str, crew: Crew) -> bool:
    """Return whether a worker does nothing at present: it is gone, or between two trials."""
    return worker == this_worker() or crew.is_gone(worker)


def _is_left_half_made(study: optuna.Study, crew: Crew) -> bool:
    """Wait until a study is made; return whether its maker is gone before that."""
    seen: tuple[int, str | None] = (-1, None)
    since = time.monotonic()
    while read_setting(study, _READY) is None:
        maker = read_setting(study, _MAKER)
        now = len(all_trials(study)), maker
        if now != seen:
            seen, since = now, time.monotonic()
        crew.look()
        # Of a maker on another host one knows only whether it makes progress.
        patience = _MAKER_PATIENCE if maker or crew.others() else _MAKER_START
        if (maker and _is_done(maker, crew)) or time.monotonic() - since > patience:
            # Others may wait as well; one of them is first to say that it goes on.
            time.sleep(random.random() * _TAKEOVER)
            if read_setting(study, _MAKER) == maker:
                return True
        time.sleep(0.05)
    return False


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two JSON documents, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for i, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, now, f"{path}.{i}")
        if len(old) != len(new):
            yield f"{path} had {len(old)} entries, has {len(new)}"
    elif old != new and path == "data":
        yield f"the task's data changed (from digest {old} to {new})"
    elif old != new:
        yield f"{path} was {json.dumps(old)}, is {json.dumps(new)}"
