"""scikit-learn's estimators keep its contract, and do what a network and a search do."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn.tasks.encoding import learn_encoding


pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from optuna_wnn.sklearn import BinaryEncoder
from optuna_wnn.sklearn import DistributiveThermometerEncoder
from optuna_wnn.sklearn import RAMClassifier
from optuna_wnn.sklearn import ThermometerEncoder


ENCODERS = [BinaryEncoder, DistributiveThermometerEncoder, ThermometerEncoder]
SEARCH = {
    "space": {"neurons": [2, 6], "bits": [2, 5]},
    "search": {"trials": 12, "population_size": 4, "n_neighbors": 4},
    "phases": [
        {"method": "ga", "free": ["neurons", "bits"]},
        {"method": "ts", "free": "connections"},
    ],
}


SMALLER = {**SEARCH, "search": {"trials": 4, "population_size": 2, "n_neighbors": 2}}


@pytest.fixture(scope="module")
def iris() -> tuple[NDArray[Any], NDArray[Any]]:
    data = load_iris()
    return data.data, data.target_names[data.target]


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [RAMClassifier(), RAMClassifier(search=SMALLER), *(encoder() for encoder in ENCODERS)]
)
def test_estimators_keep_the_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_codes_as_a_table_is_coded(encoder: Any, iris: Any) -> None:
    x, _ = iris
    found = encoder(n_bits=5).fit(x[:100])
    expected = learn_encoding(found._kind, x[:100], 5)
    assert np.array_equal(found.transform(x), expected.bits(x))
    names = found.get_feature_names_out(["a", "b", "c", "d"])
    assert (len(names), names[0], names[-1]) == (20, "a_0", "d_4")


def test_an_encoder_in_a_pipeline_is_the_classifier_s_own(iris: Any) -> None:
    x, y = iris
    own = RAMClassifier(thresholds=4, random_state=3).fit(x, y)
    piped = make_pipeline(
        DistributiveThermometerEncoder(4), RAMClassifier(encoding=None, random_state=3)
    ).fit(x, y)
    assert np.array_equal(piped.predict_proba(x), own.predict_proba(x))
    assert set(own.predict(x)) <= set(y)


def test_random_wiring_learns_iris(iris: Any) -> None:
    assert cross_val_score(RAMClassifier(random_state=0), *iris, cv=5).mean() > 0.9


def test_a_search_is_run_and_its_winner_trained_on_everything(iris: Any) -> None:
    x, y = iris
    level = optuna.logging.get_verbosity()
    found: Any = RAMClassifier(search=SEARCH, random_state=0).fit(x, y)
    assert optuna.logging.get_verbosity() == level
    assert [phase.n_trials for phase in found.summary_.phases] == [12, 12]
    best = found.summary_.phases[found.summary_.best_phase].validation
    started = found.summary_.phases[0]
    assert best[0] <= started.validation[0]
    assert found.network_.n_trained == len(x)
    again = RAMClassifier(genome=found.genome_, random_state=0).fit(x, y)
    assert np.array_equal(again.predict_proba(x), found.predict_proba(x))


def test_the_same_random_state_finds_the_same(iris: Any) -> None:
    x, y = iris
    model = RAMClassifier(search=SEARCH, random_state=5)
    first, second = (clone(model).fit(x, y).genome_ for _ in range(2))
    assert first == second
    assert clone(model).set_params(random_state=6).fit(x, y).genome_ != first


def test_a_search_may_be_guided_by_a_part_that_is_held_out(iris: Any) -> None:
    memory: dict[str, Any] = {"mode": "quad_weighted", "vote": "mean", "temperature": "fit"}
    found = RAMClassifier(search=SEARCH, memory=memory, random_state=0).fit(*iris)
    assert found.network_.memory == MemorySettings(**memory)
    assert found.score(*iris) > 0.8


def test_a_fitted_classifier_survives_a_pickle(iris: Any) -> None:
    x, y = iris
    found = RAMClassifier(random_state=0).fit(x, y)
    found.predict(x)
    copy = pickle.loads(pickle.dumps(found))
    assert np.array_equal(copy.predict_proba(x), found.predict_proba(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoding": "gauss"}, "'gauss' is not one of"),
        ({"encoding": None}, "more than 0 and 1"),
        ({"search": {"task": {}}}, "task is given by the classifier"),
        ({"search": {"serch": {}}}, "serch"),
        ({"memory": {"mode": "none"}}, "memory.mode"),
        (
            {"search": SEARCH, "memory": {}, "validation_fraction": 0.0},
            "validation_fraction: 0.0 of 150 examples",
        ),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], message: str, iris: Any) -> None:
    with pytest.raises(InputError, match=message):
        RAMClassifier(**settings).fit(*iris)
