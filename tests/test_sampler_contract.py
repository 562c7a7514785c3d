"""Optuna's public test suites for samplers, and what every sampler of Optuna does besides."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.testing.pytest_samplers import MultiObjectiveSamplerTestCase
from optuna.trial import Trial

from optuna_wnn import Fitness
from optuna_wnn import FitnessCalculatorType
from optuna_wnn import InputError
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn.schedule import AdaptiveScaling


def configurations(*, several_objectives: bool) -> list[Any]:
    """Return every kind of sampler that the whole contract is checked with."""
    kinds: dict[str, Callable[[], BaseSampler]] = {
        "genetic": WNNGeneticSampler,
        "genetic-2": lambda: WNNGeneticSampler(seed=1, population_size=2, tournament_size=1),
        "genetic-adaptive": lambda: WNNGeneticSampler(
            seed=1, population_size=4, scaling=AdaptiveScaling(check_interval=1)
        ),
        "tabu": WNNTabuSearchSampler,
        "tabu-hill": lambda: WNNTabuSearchSampler(seed=1, n_neighbors=1),
        "tabu-many": lambda: WNNTabuSearchSampler(seed=1, n_neighbors=4, n_sources=3),
    }
    for kind in FitnessCalculatorType if several_objectives else ():
        kinds[f"genetic-{kind.value}"] = lambda kind=kind: WNNGeneticSampler(  # type: ignore[misc]
            seed=1, population_size=3, fitness=kind
        )
        kinds[f"tabu-{kind.value}"] = lambda kind=kind: WNNTabuSearchSampler(  # type: ignore[misc]
            seed=1, n_neighbors=3, fitness=kind
        )
    return [pytest.param(make, id=name) for name, make in kinds.items()]


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture(params=configurations(several_objectives=False))
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        made: Callable[[], BaseSampler] = request.param
        return made


class TestMultiObjective(MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=configurations(several_objectives=True))
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        made: Callable[[], BaseSampler] = request.param
        return made


# -- what Optuna tests of its own samplers only ---------------------------------------------------


SEEDED = [
    pytest.param(lambda seed: WNNGeneticSampler(seed=seed, population_size=5), id="genetic"),
    pytest.param(lambda seed: WNNTabuSearchSampler(seed=seed, n_neighbors=5), id="tabu"),
]
Seeded = Callable[[int | None], BaseSampler]


def objective(trial: Trial) -> float:
    a = trial.suggest_float("a", 0, 9)
    b = trial.suggest_float("b", 0.1, 9, log=True)
    c = trial.suggest_int("c", 0, 9)
    d = trial.suggest_int("d", 1, 9, log=True)
    e = trial.suggest_int("e", 0, 8, step=2)
    f = trial.suggest_categorical("f", [1, 2, 3])
    g = trial.suggest_float("g", 0, 9, step=0.5)
    if c > 4:
        a += trial.suggest_float("h", 0, 1)
    return a + b + c + d + e + f + g


def found(sampler: BaseSampler, n_trials: int = 23) -> list[dict[str, Any]]:
    """Return the parameters of the trials that a sampler makes of a new study."""
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("make", SEEDED)
def test_the_same_seed_gives_the_same_trials(make: Seeded) -> None:
    trials = found(make(7))
    assert trials == found(make(7))
    assert trials != found(make(8))


@pytest.mark.parametrize("make", SEEDED)
def test_without_a_seed_every_study_differs(make: Seeded) -> None:
    sampler = make(None)
    assert found(sampler, 3) != found(make(None), 3)


@pytest.mark.parametrize("make", SEEDED)
def test_one_sampler_serves_several_studies(make: Seeded) -> None:
    sampler = make(7)
    first = found(sampler)
    assert found(sampler) == first


@pytest.mark.parametrize("make", SEEDED)
def test_reseeding_changes_what_is_sampled_but_not_in_a_study_that_was_started(
    make: Seeded,
) -> None:
    unseeded = make(None)
    twin = copy.deepcopy(unseeded)
    assert found(unseeded, 3) == found(twin, 3)
    twin = copy.deepcopy(unseeded)
    twin.reseed_rng()
    assert found(unseeded, 3) != found(twin, 3)
    seeded = make(7)
    seeded.reseed_rng()
    assert found(seeded, 3) != found(make(7), 3)
    study = optuna.create_study(sampler=make(7))
    study.optimize(objective, n_trials=1)
    study.sampler.reseed_rng()
    study.optimize(objective, n_trials=2)
    assert [trial.params for trial in study.trials] == found(make(7), 3)


@pytest.mark.parametrize("make", SEEDED)
def test_a_copy_or_a_pickle_goes_on_as_the_original_would(make: Seeded) -> None:
    twins: list[Callable[[Any], Any]] = [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
    for twin in twins:
        study = optuna.create_study(sampler=make(7))
        study.optimize(objective, n_trials=11)
        study.sampler = twin(study.sampler)
        study.optimize(objective, n_trials=12)
        assert [trial.params for trial in study.trials] == found(make(7))


def _in_process(name: str, results: Any) -> None:
    makes = {"genetic": 0, "tabu": 1}
    make: Seeded = SEEDED[makes[name]].values[0]  # type: ignore[assignment]
    results.put(found(make(7)))


@pytest.mark.parametrize("name", ["genetic", "tabu"])
def test_another_process_finds_the_same(name: str) -> None:
    """Nothing depends on the hashes of strings or on the order of sets."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_in_process, args=(name, results))
    process.start()
    there = results.get(timeout=60)
    process.join()
    make: Seeded = SEEDED[["genetic", "tabu"].index(name)].values[0]  # type: ignore[assignment]
    assert there == found(make(7))


@pytest.mark.parametrize("make", SEEDED)
def test_threads_share_a_study(make: Seeded) -> None:
    study = optuna.create_study(sampler=make(7))
    study.optimize(objective, n_trials=40, n_jobs=2)
    assert len(study.trials) == 40
    assert len({str(trial.params) for trial in study.trials}) > 30


def test_no_two_places_of_a_study_draw_the_same_numbers() -> None:
    """The first generation's values are all different, in every parameter."""
    study = optuna.create_study(sampler=WNNGeneticSampler(seed=0, population_size=100))
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=100)
    values = [value for trial in study.trials for value in trial.params.values()]
    assert len(set(values)) == 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WNNGeneticSampler(population_size=1), "population_size is 1, .* at least 2"),
        (lambda: WNNGeneticSampler(tournament_size=0), "tournament_size is 0, .* at least 1"),
        (lambda: WNNGeneticSampler(crossover_rate=1.5), r"crossover_rate is 1.5, .* in \[0, 1\]"),
        (lambda: WNNGeneticSampler(mutation_rate=-0.1), r"mutation_rate is -0.1, .* in \[0, 1\]"),
        (lambda: WNNGeneticSampler(seed=-1), "seed is -1, .* at least 0"),
        (lambda: WNNGeneticSampler(fitness="BEST"), "'BEST' is not one of"),
        (lambda: WNNTabuSearchSampler(n_neighbors=0), "n_neighbors is 0, .* at least 1"),
        (lambda: WNNTabuSearchSampler(tabu_tenure=-1), "tabu_tenure is -1, .* at least 0"),
        (lambda: WNNTabuSearchSampler(n_neighbors=2, n_sources=3), "n_sources is 3, .* 1 to"),
    ],
)
def test_a_setting_out_of_range_is_named(make: Callable[[], BaseSampler], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_weights_must_fit_the_objectives() -> None:
    fitness = Fitness(FitnessCalculatorType.HARMONIC_RANK, (1.0, 1.0, 1.0))
    sampler = WNNGeneticSampler(population_size=2, fitness=fitness)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    with pytest.raises(InputError, match="3 weights for 2 objectives"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 0.0), n_trials=3)
