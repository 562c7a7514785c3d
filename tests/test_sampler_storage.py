"""The storage is all there is to keep: exact resume, several workers, copies, flat cost."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import Trial
from optuna.trial import TrialState
from searches import SAMPLERS
from searches import child_of
from searches import finished
from searches import genomes_of
from searches import loss
from searches import objective as shown
from searches import study_of
from searches import told

from optuna_wnn import Bounds
from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import open_storage
from optuna_wnn.store.genomes import read_genome
from optuna_wnn.store.settings import read_setting
from optuna_wnn.store.trials import mark_stale


KINDS = list(SAMPLERS)
SPACE = GenomeSpace(Bounds(9, 40, (1, 6), (2, 8)))  # too many counts to show: trials are quick
URLS = {"sqlite": "sqlite:///{}/study.db", "journal": "journal:///{}/study.log"}


def objective(trial: Trial) -> float:
    return loss(SPACE.suggest(trial))


def straight(kind: str, n_trials: int, goal: Callable[[Trial], float] = objective) -> optuna.Study:
    """Return the study of one worker that was never stopped."""
    study = study_of(SAMPLERS[kind](1), open_storage("memory:"))
    study.optimize(goal, n_trials=n_trials)
    return study


@pytest.fixture(params=list(URLS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return URLS[request.param].format(tmp_path)


def opened(url: str, kind: str) -> optuna.Study:
    """Open a study as a fresh process would: new storage, sampler and study objects."""
    return study_of(SAMPLERS[kind](1), open_storage(url))


# -- exact resume ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "n_trials"), [(1, 12), (7, 60)])
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_is_the_same_as_straight(
    kind: str, every: int, n_trials: int, url: str
) -> None:
    for done in range(0, n_trials, every):
        opened(url, kind).optimize(objective, n_trials=min(every, n_trials - done))
    assert told(opened(url, kind)) == told(straight(kind, n_trials))


def test_counts_that_are_shown_resume_exactly(url: str) -> None:
    for _ in range(3):
        opened(url, "genetic").optimize(shown, n_trials=8)
    assert told(opened(url, "genetic")) == told(straight("genetic", 24, shown))


def ordinary(trial: Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    n = trial.suggest_int("n", 1, 64, log=True)
    if trial.suggest_categorical("c", ["a", "b"]) == "a":
        x += trial.suggest_float("y", 0, 1, step=0.25)
    return x * x + n


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_parameters_resume_exactly(kind: str, url: str) -> None:
    for _ in range(3):
        opened(url, kind).optimize(ordinary, n_trials=9)
    expected = straight(kind, 27, ordinary)
    assert [t.params for t in opened(url, kind).trials] == [t.params for t in expected.trials]


@pytest.mark.parametrize("kind", KINDS)
def test_asking_and_telling_by_number_is_the_same(kind: str, url: str) -> None:
    """The trial is told by another object than asked for it, as over a network."""
    for _ in range(10):
        trial = opened(url, kind).ask()
        value = objective(trial)
        opened(url, kind).tell(trial.number, value)
    assert told(opened(url, kind)) == told(straight(kind, 10))


def test_without_a_seed_the_study_keeps_the_one_it_drew(url: str) -> None:
    for _ in range(3):
        study = study_of(WNNGeneticSampler(population_size=8), open_storage(url))
        study.optimize(objective, n_trials=8)
    seed = read_setting(study, "seed")
    assert told(study) == told(_with_seed(seed, 24))


def _with_seed(seed: int, n_trials: int) -> optuna.Study:
    study = study_of(WNNGeneticSampler(seed=seed, population_size=8))
    study.optimize(objective, n_trials=n_trials)
    return study


# -- a worker that died ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dies_at", [0, 8, 13])
def test_the_place_of_a_dead_worker_is_given_out_once_with_the_same_genome(
    kind: str, dies_at: int, url: str
) -> None:
    study = opened(url, kind)
    study.optimize(objective, n_trials=dies_at)
    objective(study.ask())  # and here it is killed
    study = opened(url, kind)
    (zombie,) = study.get_trials(states=(TrialState.RUNNING,))
    mark_stale(study, zombie)
    opened(url, kind).optimize(objective, n_trials=20 - dies_at)
    study = opened(url, kind)
    assert told(study) == told(straight(kind, 20))
    places = Counter((child_of(t).generation, child_of(t).index) for t in study.trials)
    place = child_of(zombie).generation, child_of(zombie).index
    assert {p: n for p, n in places.items() if n > 1} == {place: 2}
    again = study.trials[dies_at + 1]
    assert child_of(again).handle == child_of(zombie).handle
    assert read_genome(again, study) == read_genome(zombie, study)


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_can_be_lost_again_and_again(kind: str, url: str) -> None:
    for _ in range(4):
        study = opened(url, kind)
        for zombie in study.get_trials(states=(TrialState.RUNNING,)):
            mark_stale(study, zombie)
        study.optimize(objective, n_trials=5)
        objective(study.ask())
    study = opened(url, kind)
    assert told(study) == told(straight(kind, 20))


def test_one_that_died_before_it_had_a_place_leaves_no_gap(url: str) -> None:
    study = opened(url, "genetic")
    study.optimize(objective, n_trials=5)
    study._storage.create_new_trial(study._study_id)  # and here it is killed
    study = opened(url, "genetic")
    mark_stale(study, study.trials[-1])
    study.optimize(objective, n_trials=15)
    assert told(study) == told(straight("genetic", 20))


def test_one_that_died_while_the_study_goes_on_is_noticed() -> None:
    """The trial is closed by another process; the sampler that still runs gives its place out."""
    storage = open_storage("memory:")
    study, other = (study_of(SAMPLERS["genetic"](1), storage) for _ in range(2))
    objective(study.ask())
    study.optimize(objective, n_trials=3)
    mark_stale(other, other.trials[0])
    study.optimize(objective, n_trials=1)
    child = child_of(study.trials[-1])
    assert (child.generation, child.index) == (0, 0)


def test_a_retried_trial_keeps_its_place_and_genome() -> None:
    """Optuna's callback for stale heartbeats copies a failed trial, attributes and all."""
    study = study_of(SAMPLERS["genetic"](1))
    study.optimize(objective, n_trials=10)
    dead = study.ask()
    genome = SPACE.suggest(dead)
    study.tell(dead, state=TrialState.FAIL)
    failed = study.trials[-1]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            system_attrs={**failed.system_attrs, "fixed_params": failed.params},
        )
    )
    retried = study.ask()
    assert SPACE.suggest(retried) == genome
    study.tell(retried, 1.0)
    assert child_of(study.trials[-1]) == child_of(failed)
    study.optimize(objective, n_trials=1)
    assert child_of(study.trials[-1]).index == child_of(failed).index + 1


# -- several workers ------------------------------------------------------------------------------


def _work(url: str, kind: str, n_trials: int, start: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = opened(url, kind)
    start.wait(60)
    study.optimize(objective, n_trials=n_trials)


@pytest.mark.parametrize("kind", ["genetic", "tabu"])
def test_two_processes_with_one_seed_evaluate_no_genome_twice(kind: str, url: str) -> None:
    opened(url, kind)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=_work, args=(url, kind, 40, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    study = opened(url, kind)
    assert len(finished(study)) == 80
    assert len({genome.digest for genome in genomes_of(study)}) == 80
    children = [child_of(trial) for trial in study.trials]
    assert len({(c.generation, c.index) for c in children}) == 80
    assert len({c.worker for c in children}) == 2
    # Where both saw that both had a place, both left it; most such gaps are filled later.
    sizes = Counter(c.generation for c in children)
    full = {"genetic": 8, "tabu": 6}[kind]
    assert max(sizes.values()) == full
    assert len(sizes) <= 80 // full + 3


def test_a_copied_study_continues_as_the_original_would(url: str) -> None:
    storage = open_storage(url)
    optuna.create_study(storage=storage, study_name="other").ask()  # ids and numbers differ
    study = study_of(SAMPLERS["genetic"](1), storage)
    study.optimize(objective, n_trials=20)
    optuna.copy_study(
        from_study_name="s", from_storage=storage, to_storage=storage, to_study_name="copy"
    )
    copy = optuna.load_study(study_name="copy", storage=storage, sampler=SAMPLERS["genetic"](1))
    copy.optimize(objective, n_trials=20)
    assert told(copy) == told(straight("genetic", 40))


# -- cost -----------------------------------------------------------------------------------------


class Counting:
    """A storage that counts the calls of its methods."""

    def __init__(self, inner: BaseStorage) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()

    def storage(self) -> BaseStorage:
        """Return the inner storage with all its methods counted."""
        for name in dir(BaseStorage):
            method = getattr(self.inner, name, None)
            if not name.startswith("__") and callable(method):
                setattr(self.inner, name, self._counted(name, method))
        return self.inner

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return method(*arguments, **named)

        return call


def grown(study: optuna.Study, n_trials: int) -> None:
    """Add finished trials, as fast as can be."""
    rng = np.random.default_rng(len(study.trials))
    study.add_trials(
        [
            optuna.create_trial(
                value=float(x), params={"x": x}, distributions={"x": FloatDistribution(0, 1)}
            )
            for x in rng.random(n_trials)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_costs_as_many_storage_calls_after_2000_trials_as_after_200(kind: str) -> None:
    def calls_per_trial(study: optuna.Study, calls: Counter[str]) -> Counter[str]:
        goal = lambda trial: trial.suggest_float("x", 0, 1)  # noqa: E731
        study.optimize(goal, n_trials=1)  # whatever is read once is read now
        calls.clear()
        study.optimize(goal, n_trials=20)
        return calls.copy()

    counting = Counting(open_storage("memory:"))
    study = study_of(SAMPLERS[kind](1), counting.storage())
    grown(study, 200)
    few = calls_per_trial(study, counting.calls)
    grown(study, 1800)
    assert calls_per_trial(study, counting.calls) == few
    assert few["get_all_trials"] == 20  # Optuna's own, for waiting trials
    assert few.total() < 20 * 25


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_costs_no_more_storage_calls_than_under_random_search(kind: str) -> None:
    def calls(sampler: BaseSampler, n_parameters: int) -> Counter[str]:
        counting = Counting(open_storage("memory:"))
        study = study_of(sampler, counting.storage())
        for _ in range(20):
            counting.calls.clear()
            trial = study.ask({f"x{i}": FloatDistribution(0, 1) for i in range(n_parameters)})
            study.tell(trial, 0.0)
        return counting.calls

    one, ten = (calls(SAMPLERS[kind](1), n) for n in (1, 10))
    random_one, random_ten = (calls(RandomSampler(seed=1), n) for n in (1, 10))
    assert ten - one == random_ten - random_one


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_reads_a_long_history_in_one_call(kind: str) -> None:
    counting = Counting(open_storage("memory:"))
    storage = counting.storage()
    study = study_of(SAMPLERS[kind](1), storage)
    grown(study, 500)
    study = study_of(SAMPLERS[kind](1), storage)
    counting.calls.clear()
    study.ask()
    assert counting.calls["get_all_trials"] <= 2
    assert counting.calls["get_trial"] < 15


def test_many_waiting_and_running_trials_are_read_together() -> None:
    counting = Counting(open_storage("memory:"))
    study = study_of(SAMPLERS["genetic"](1), counting.storage())
    for x in range(100):
        study.enqueue_trial({"x": x / 100})
    batch = [study.ask() for _ in range(90)]
    counting.calls.clear()
    study.ask()
    assert counting.calls["get_trial"] < 15
    assert counting.calls["get_all_trials"] <= 4
    for trial in batch:
        study.tell(trial, trial.suggest_float("x", 0, 1))
    assert len(finished(study)) == 90


def test_what_a_sampler_keeps_of_a_trial_is_small() -> None:
    """No genome of a finished trial is kept but in a bounded cache."""
    study = straight("genetic", 50)
    sampler: Any = study.sampler
    (known,) = sampler._studies.values()
    assert known.in_flight == {}
    record = known.history.record(49)
    kept = (getattr(record, field.name) for field in fields(record))
    assert sum(map(sys.getsizeof, kept)) < 2000
