"""The search space: what is free, and how a trial of any sampler gets its genome."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler
from optuna.trial import FixedTrial
from optuna.trial import Trial
from searches import SAMPLERS
from searches import SPACE
from searches import genomes_of
from searches import loss
from searches import objective
from searches import study_of
from strategies import bounds as some_bounds
from strategies import seeds

import optuna_wnn
from optuna_wnn import Bounds
from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import storages
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task


WIRES: Any = ("wires",)
WIDE = GenomeSpace(Bounds(20, 40, (1, 6), (2, 8)))  # 40 free counts: too many to show

OTHERS: list[Any] = [
    pytest.param(lambda: optuna.samplers.RandomSampler(seed=1), id="random"),
    pytest.param(lambda: optuna.samplers.TPESampler(seed=1, n_startup_trials=4), id="tpe"),
    pytest.param(lambda: optuna.samplers.NSGAIISampler(seed=1, population_size=4), id="nsga2"),
]
OURS: list[Any] = [pytest.param(lambda make=make: make(1), id=n) for n, make in SAMPLERS.items()]


def task(head: Any = "classes", n_outputs: int = 3) -> Task:
    nothing = Examples(np.zeros((0, 1), np.uint64), np.zeros(0, np.int64))
    return Task("t", head, 40, n_outputs, nothing, nothing, nothing, (5, 8))


# -- the space itself -----------------------------------------------------------------------------


def test_a_space_fits_its_task() -> None:
    space = GenomeSpace.for_task(task())
    assert space == GenomeSpace(Bounds(3, 40, (2, 64), (4, 16)), DIMENSIONS, (33, 10))
    fixed = GenomeSpace.for_task(task("bits", 200), neurons=5, bits=(2, 4), free=["connections"])
    assert fixed.bounds == Bounds(8, 40, (5, 5), (2, 4))
    assert fixed.start == (5, 3)
    assert fixed.free == ("connections",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenomeSpace(SPACE.bounds, ()), "space.free: nothing is free"),
        (lambda: GenomeSpace(SPACE.bounds, WIRES), "space.free: wires is free; give one or"),
        (
            lambda: GenomeSpace(SPACE.bounds, ("bits",), (9, 4)),
            r"space.start: 9 neurons are outside \[1, 6\]",
        ),
        (lambda: GenomeSpace.for_task(task(), bits=(4, 41)), "above the 40 input bits"),
        (lambda: GenomeSpace.for_task(task(), neurons=0), r"\(0, 0\) is no range"),
    ],
)
def test_an_impossible_space_is_named(make: Callable[[], GenomeSpace], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@given(some_bounds(), st.lists(st.sampled_from(DIMENSIONS), min_size=1, unique=True), seeds)
def test_a_sample_is_random_only_in_what_is_free(bounds: Bounds, free: Any, seed: int) -> None:
    space = GenomeSpace(bounds, tuple(free), (bounds.neurons[1], bounds.bits[0]))
    genome = space.sample(np.random.default_rng(seed))
    genome.check(bounds)
    if "neurons" not in free:
        assert set(genome.neurons.tolist()) == {bounds.neurons[1]}
    if "bits" not in free:
        assert set(genome.bits.tolist()) == {bounds.bits[0]}


@given(some_bounds(), st.lists(st.sampled_from(DIMENSIONS), min_size=1, unique=True))
def test_a_space_survives_as_json(bounds: Bounds, free: Any) -> None:
    space = GenomeSpace(bounds, tuple(free), (bounds.neurons[0], bounds.bits[0]))
    assert GenomeSpace.from_json(space.to_json()) == space


def test_a_space_travels_with_its_study() -> None:
    study = study_of(optuna.samplers.RandomSampler())
    assert GenomeSpace.read(study) is None
    study.optimize(objective, n_trials=1)
    assert GenomeSpace.read(study) == SPACE


def test_another_space_in_the_same_study_is_refused() -> None:
    study = study_of(optuna.samplers.RandomSampler())
    study.optimize(objective, n_trials=1)
    with pytest.raises(InputError, match="study s: it searches another space"):
        WIDE.suggest(study.ask())


def test_a_study_that_is_deleted_and_made_again_starts_anew() -> None:
    storage = storages.open_storage("memory:")
    for space in (SPACE, WIDE, WIDE):
        study = study_of(SAMPLERS["genetic"](1), storage)
        study.optimize(lambda trial, space=space: loss(space.suggest(trial)), n_trials=12)  # type: ignore[misc]
        assert GenomeSpace.read(study) == space
        optuna.delete_study(study_name="s", storage=storage)


def test_a_sampler_notices_a_study_that_was_made_again() -> None:
    storage, sampler, runs = storages.open_storage("memory:"), SAMPLERS["genetic"](1), []
    for _ in range(2):
        study = study_of(sampler, storage)
        study.optimize(objective, n_trials=20)
        runs.append([trial.params for trial in study.trials])
        optuna.delete_study(study_name="s", storage=storage)
    assert runs[0] == runs[1]


# -- under any sampler ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*OTHERS, *OURS])
@pytest.mark.parametrize("space", [SPACE, WIDE])
def test_the_same_objective_runs_under_any_sampler(
    make: Callable[[], BaseSampler], space: GenomeSpace
) -> None:
    study = study_of(make())
    seen = []

    def watched(trial: Trial) -> float:
        genome = space.suggest(trial)
        genome.check(space.bounds)
        assert space.suggest(trial) == genome  # asking twice is harmless
        assert optuna_wnn.genome(trial) == genome
        seen.append(genome)
        return loss(genome)

    study.optimize(watched, n_trials=12)
    assert genomes_of(study) == seen
    for trial, genome in zip(study.trials, seen, strict=True):
        shown = space.parameters(genome)
        assert trial.params.keys() == shown.keys() == space.distributions().keys()
        assert {n: v for n, v in trial.params.items() if n != "genome"} == {
            n: v for n, v in shown.items() if n != "genome"
        }
        assert trial.distributions == space.distributions()
        assert optuna_wnn.genome(trial, study) == genome
        assert space.suggest(trial) == genome  # so an objective can be called with best_trial


@pytest.mark.parametrize("make", OURS)
def test_under_these_samplers_the_parameter_is_the_genomes_handle(
    make: Callable[[], BaseSampler],
) -> None:
    study = study_of(make())
    study.optimize(objective, n_trials=20)
    for trial, genome in zip(study.trials, genomes_of(study), strict=True):
        assert trial.params == SPACE.parameters(genome)
        assert trial.params["genome"] == genome.handle


def test_many_counts_are_not_shown() -> None:
    assert len(SPACE.parameters(SPACE.sample(np.random.default_rng(0)))) == 9
    assert list(WIDE.parameters(WIDE.sample(np.random.default_rng(0)))) == ["genome"]
    frozen = GenomeSpace(SPACE.bounds, ("connections",), (2, 3))
    assert list(frozen.distributions()) == ["genome"]


def test_a_fixed_trial_seeds_a_genome() -> None:
    params = {"genome": 7, **{f"neurons_{k}": 3 for k in range(4)}}
    params |= {f"bits_{k}": 2 + k for k in range(4)}
    genome = SPACE.suggest(FixedTrial(params))
    genome.check(SPACE.bounds)
    assert genome.neurons.tolist() == [3, 3, 3, 3]
    assert genome.bits.tolist() == [2, 3, 4, 5]
    assert SPACE.suggest(FixedTrial(params)) == genome
    assert SPACE.suggest(FixedTrial({**params, "genome": 8})) != genome


# -- parameters fixed by hand ---------------------------------------------------------------------


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("n_before", [0, 12])
def test_an_enqueued_genome_is_the_one_that_its_number_seeds(
    make: Callable[[], BaseSampler], n_before: int
) -> None:
    study = study_of(make())
    study.optimize(objective, n_trials=n_before)
    study.enqueue_trial({"genome": 7})
    study.optimize(objective, n_trials=3)
    genome = optuna_wnn.genome(study.trials[n_before])
    assert study.trials[n_before].params["genome"] == 7
    assert genome == SPACE.seeded(7)
    assert study.trials[n_before].params == {**SPACE.parameters(genome), "genome": 7}


@pytest.mark.parametrize("make", OURS)
def test_enqueued_parameters_of_a_trial_bring_back_its_genome(
    make: Callable[[], BaseSampler],
) -> None:
    study = study_of(make())
    study.optimize(objective, n_trials=20)
    study.enqueue_trial(study.best_params)
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == study.best_params
    assert genomes_of(study)[-1].digest == genomes_of(study)[study.best_trial.number].digest


@pytest.mark.parametrize("make", [*OTHERS, *OURS])
@pytest.mark.parametrize("fixed", [{"neurons_0": 3}, {"genome": 5, "neurons_0": 3, "bits_2": 7}])
@pytest.mark.parametrize("n_before", [0, 12])
def test_enqueued_counts_are_obeyed(
    make: Callable[[], BaseSampler], fixed: dict[str, int], n_before: int
) -> None:
    study = study_of(make())
    study.optimize(objective, n_trials=n_before)
    study.enqueue_trial(fixed)
    study.optimize(objective, n_trials=2)
    trial, genome = study.trials[n_before], genomes_of(study)[n_before]
    assert trial.params.items() >= fixed.items()
    assert genome.neurons[0] == 3
    assert genome.bits[2] == fixed.get("bits_2", genome.bits[2])
    shown = SPACE.parameters(genome)
    assert all(trial.params[name] == shown[name] for name in shown if name != "genome")


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("fixed", [{"neurons_0": 3}, {"genome": 5}])
def test_a_partial_fixed_sampler_is_obeyed(
    make: Callable[[], BaseSampler], fixed: dict[str, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.PartialFixedSampler(fixed, make())
    study = study_of(sampler)
    study.optimize(objective, n_trials=20)
    for trial, genome in zip(study.trials, genomes_of(study), strict=True):
        genome.check(SPACE.bounds)
        assert trial.params.items() >= fixed.items()
        shown = SPACE.parameters(genome)
        assert all(trial.params[name] == shown[name] for name in shown if name != "genome")


def test_a_trial_without_a_genome_is_named() -> None:
    study = study_of(optuna.samplers.RandomSampler())
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InputError, match="trial 0: it has no genome"):
        optuna_wnn.genome(study.trials[0])
