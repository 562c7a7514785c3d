"""Trials that are written by few statements are trials as Optuna writes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from services import with_storage

from optuna_wnn import at_once
from optuna_wnn.storages import open_storage
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import read_child
from optuna_wnn.store.running import Trials
from optuna_wnn.store.running import add_trial
from optuna_wnn.store.running import finish_trial
from optuna_wnn.store.trials import mark_stale


KINDS = ("sqlite", "postgres", "mysql", "journal")
CHILD = Child(2, 3, (0,), handle=7)
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-9, 1.0, log=True),
    "neurons": IntDistribution(1, 99),
    "kind": CategoricalDistribution(["it's", 'a "choice"', None]),
}
PARAMS = {"rate": 1 / 3, "neurons": 17, "kind": 'a "choice"'}
SHOWN = {"size": 1.5, "note": "100 % :of %(it)s"}


@pytest.fixture(params=KINDS)
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[optuna.Study]:
    """A study of two objectives in a fresh storage of each kind."""
    for url in with_storage(request.param, tmp_path):
        storage = open_storage(url)
        yield optuna.create_study(directions=["minimize", "maximize"], storage=storage)


def begun(study: optuna.Study) -> FrozenTrial:
    trial = Trials(study).begin(CHILD, PARAMS, DISTRIBUTIONS, SHOWN, lambda other: False)
    assert trial is not None
    return trial


def stored(study: optuna.Study) -> FrozenTrial:
    """The only trial, read by Optuna through another storage object."""
    (trial,) = optuna.load_study(study_name=study.study_name, storage=study._storage).trials
    return trial


def test_a_begun_trial_is_all_there(study: optuna.Study) -> None:
    assert begun(study).number == 0
    trial = stored(study)
    assert trial.state == TrialState.RUNNING
    assert trial.params == PARAMS
    assert trial.distributions == DISTRIBUTIONS
    assert trial.user_attrs == SHOWN
    assert read_child(trial.system_attrs) == CHILD
    assert trial.datetime_start is not None


@pytest.mark.parametrize("values", [[0.1, 0.25], [math.inf, -math.inf], [1e-300, 1e300]])
def test_a_finished_trial_has_its_values_and_attributes(
    study: optuna.Study, values: list[float]
) -> None:
    assert finish_trial(study, begun(study), TrialState.COMPLETE, values, {"more": [1, "%s :x"]})
    trial = stored(study)
    assert trial.state == TrialState.COMPLETE
    assert trial.values == values
    assert trial.system_attrs["more"] == [1, "%s :x"]
    assert trial.params == PARAMS
    assert trial.duration is not None
    assert 0 <= trial.duration.total_seconds() < 60


def test_a_failed_trial_has_no_values(study: optuna.Study) -> None:
    assert finish_trial(study, begun(study), TrialState.FAIL)
    assert stored(study).state == TrialState.FAIL
    assert stored(study).values is None


def test_a_trial_is_finished_once(study: optuna.Study) -> None:
    trial = begun(study)
    assert finish_trial(study, trial, TrialState.COMPLETE, [1.0, 2.0], {"by": "one"})
    assert not finish_trial(study, trial, TrialState.COMPLETE, [3.0, 4.0], {"other": "two"})
    assert stored(study).values == [1.0, 2.0]
    assert "other" not in stored(study).system_attrs


def test_a_trial_that_was_taken_for_dead_stays_closed(study: optuna.Study) -> None:
    trial = begun(study)
    mark_stale(study, trial)
    assert not finish_trial(study, trial, TrialState.COMPLETE, [1.0, 2.0], {"late": True})
    assert stored(study).state == TrialState.FAIL
    assert "late" not in stored(study).system_attrs


def test_a_trial_is_added_whole(study: optuna.Study) -> None:
    add_trial(
        study,
        optuna.create_trial(
            params=PARAMS,
            distributions=DISTRIBUTIONS,
            values=[0.5, math.inf],
            user_attrs=SHOWN,
            system_attrs={"own": 1},
        ),
    )
    trial = stored(study)
    assert (trial.values, trial.params, trial.user_attrs) == ([0.5, math.inf], PARAMS, SHOWN)
    assert trial.system_attrs == {"own": 1}


def test_what_is_too_much_for_one_statement_takes_several(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "_MOST_VALUES", 4)
    values = [0.5, -math.inf]
    assert finish_trial(study, begun(study), TrialState.COMPLETE, values, {"more": 1})
    trial = stored(study)
    assert (trial.values, trial.params, trial.user_attrs) == (values, PARAMS, SHOWN)


def test_another_reader_sees_a_trial_begin_and_end(study: optuna.Study) -> None:
    reader = Trials(study)
    assert list(reader.news()) == []
    trial = begun(study)
    (new,) = reader.news()
    assert (new.number, new.state, read_child(new.system_attrs)) == (0, TrialState.RUNNING, CHILD)
    assert list(reader.news()) == []
    finish_trial(study, trial, TrialState.COMPLETE, [1.0, -math.inf], {"more": 1})
    (ended,) = reader.news()
    assert (ended.state, ended.values) == (TrialState.COMPLETE, [1.0, -math.inf])
    assert ended.system_attrs["more"] == 1
    assert ended.duration == stored(study).duration
