"""What a run came to: the best phase, the table, and runs that have not ended."""

from __future__ import annotations

import datetime

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from rich.console import Console
from runs import DigestEvaluator
from runs import genome_of
from runs import small_search
from runs import studies

from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.store.trials import is_stale


class Stopping(DigestEvaluator):
    """Stops the run after some evaluations."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if len(self.seen) == self.after:
            raise KeyboardInterrupt
        return super().evaluate(genome, part)


def stopped(after: int) -> InMemoryStorage:
    storage = InMemoryStorage()
    with pytest.raises(KeyboardInterrupt):
        small_search(storage, Stopping(after)).run()
    return storage


def shown(storage: InMemoryStorage) -> str:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(report.table(report.summarise(storage, "small")))
    return captured.get()


@pytest.fixture
def finished() -> InMemoryStorage:
    """A finished run of six phases."""
    storage = InMemoryStorage()
    small_search(storage).run()
    return storage


def test_a_summary_tells_what_each_phase_came_to(finished: InMemoryStorage) -> None:
    summary = report.summarise(finished, "small")
    assert [phase.n_trials for phase in summary.phases] == 6 * [9]
    assert [phase.ended for phase in summary.phases] == 6 * ["all 9 trials"]
    for phase, study in zip(summary.phases, studies(finished), strict=True):
        best = min(study.trials, key=lambda t: (t.values[0], -t.values[1]))
        assert phase.validation == tuple(best.values)
        assert phase.best_trial is not None
        genome = genome_of(study, phase.best_trial)
        result = DigestEvaluator().evaluate(genome, "test")
        assert phase.test == (result.cross_entropy, result.accuracy)


def test_the_first_random_genome_is_the_yardstick(finished: InMemoryStorage) -> None:
    first = genome_of(studies(finished)[0], 0)
    result = DigestEvaluator().evaluate(first, "test")
    assert report.summarise(finished, "small").first_test == (
        result.cross_entropy,
        result.accuracy,
    )


def test_the_best_phase_wins_even_if_a_later_one_is_worse(finished: InMemoryStorage) -> None:
    summary = report.summarise(finished, "small")
    assert summary.best_phase is not None
    for study in studies(finished)[summary.best_phase + 1 :]:
        make_worse(study)
    phases = studies(finished)[: summary.best_phase + 1]
    again = report.summarise(finished, "small")
    assert again.best_phase == summary.best_phase
    best = again.phases[again.best_phase]
    assert best.best_trial is not None
    assert report.best_genome(finished, "small") == genome_of(phases[-1], best.best_trial)
    assert f"Best: trial {best.best_trial} of {best.study}." in shown(finished)


def make_worse(study: optuna.Study) -> None:
    worst = max(study.trials, key=lambda t: t.values[0])
    report.finish(study, "made worse", worst.number, None, None)


def test_a_late_phase_wins_only_if_it_is_better(finished: InMemoryStorage) -> None:
    for study in studies(finished)[1:]:
        make_worse(study)
    assert report.summarise(finished, "small").best_phase == 0


def test_phases_are_compared_as_the_run_compares_trials() -> None:
    storage = InMemoryStorage()
    run = small_search(storage, fitness={"calculator": "HARMONIC_RANK", "weights": [1, 3]}).run()
    assert report.summarise(storage, "small").best_phase == run.best_phase


@pytest.mark.parametrize(("after", "n_trials"), [(1, [1]), (13, [9, 4])])
def test_an_unfinished_run_shows_its_best_so_far(after: int, n_trials: list[int]) -> None:
    storage = stopped(after)
    summary = report.summarise(storage, "small")
    assert [phase.n_trials for phase in summary.phases] == n_trials
    assert summary.phases[-1].ended is None
    assert summary.phases[-1].test is None
    complete = [
        t.values
        for study in studies(storage)
        for t in study.trials
        if t.state == TrialState.COMPLETE
    ]
    assert summary.best_phase is not None
    best = summary.phases[summary.best_phase]
    lowest = min(complete, key=lambda v: (v[0], -v[1]))
    assert best.validation == tuple(lowest)
    assert "not yet" in shown(storage)
    assert report.best_genome(storage, "small").n_clusters == 2


def test_a_run_without_a_trial_has_no_best() -> None:
    storage = stopped(0)
    assert report.summarise(storage, "small").best_phase is None
    assert "No trial has ended yet." in shown(storage)
    with pytest.raises(InputError, match="no trial yet; resume it"):
        report.best_genome(storage, "small")


def test_a_lost_trial_counts_neither_as_a_trial_nor_as_time() -> None:
    storage = stopped(3)
    (study,) = studies(storage)
    (lost,) = [t for t in study.trials if is_stale(t.system_attrs)]
    assert lost.state == TrialState.FAIL
    phase = report.summarise(storage, "small").phases[0]
    assert phase.n_trials == 3
    durations = [t.duration for t in study.trials if t.state == TrialState.COMPLETE]
    assert phase.seconds == sum((d for d in durations if d), datetime.timedelta()).total_seconds()


def test_a_run_that_is_not_there_is_refused_and_the_others_are_named(
    finished: InMemoryStorage,
) -> None:
    with pytest.raises(InputError, match="it has small"):
        report.summarise(finished, "smal")
    with pytest.raises(InputError, match="check --storage"):
        report.summarise(InMemoryStorage(), "small")


def test_studies_of_others_are_no_phases(finished: InMemoryStorage) -> None:
    for name in ("small", "small/notes", "small/x-1", "small2/1-ga-neurons", "/1-ga-bits"):
        optuna.create_study(study_name=name, storage=finished)
    assert len(report.summarise(finished, "small").phases) == 6


def test_more_than_nine_phases_stay_in_order() -> None:
    storage = InMemoryStorage()
    phases = [{"method": "ts", "free": "connections", "trials": 1} for _ in range(11)]
    small_search(storage, phases=phases).run()
    names = report.study_names(storage, "small")
    assert names == [f"small/{i}-ts-connections" for i in range(1, 12)]


def test_every_generation_can_be_shown(finished: InMemoryStorage) -> None:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(report.generations_table(finished, "small"))
    assert captured.get().count("small/1-ga-neurons") == 3
