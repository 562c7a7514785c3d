"""Trials that a user enqueues into the study of a phase are evaluated next."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from runs import DigestEvaluator
from runs import genome_of
from runs import outcome
from runs import place
from runs import small_search
from runs import studies

from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.storages import open_storage
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import fixed_parameters


class Killed(BaseException):
    """What ends a run as a kill would."""


class Enqueuing(DigestEvaluator):
    """Enqueues a trial into the first study while its third trial is evaluated."""

    def __init__(self, storage: BaseStorage, params: dict[str, int], dies: bool = False) -> None:
        super().__init__()
        self.storage, self.params, self.dies = storage, params, dies

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if len(self.seen) == 2:
            studies(self.storage)[0].enqueue_trial(self.params)
        if len(self.seen) == 3 and self.dies:
            raise Killed
        return super().evaluate(genome, part)


@pytest.mark.parametrize("url", ["memory:", "sqlite:///runs.db", "journal:///runs.journal"])
def test_an_enqueued_trial_is_next_and_shown_as_what_was_evaluated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage(url)
    evaluator = Enqueuing(storage, {"genome": 7, "neurons_0": 5})
    small_search(storage, evaluator).run()
    study = studies(storage)[0]
    trials = all_trials(study)
    found = [t for t in trials if fixed_parameters(t)]
    assert [(t.number, t.state) for t in found] == [(3, TrialState.COMPLETE)]
    assert found[0].params["neurons_0"] == 5
    genome = genome_of(study, found[0].number)
    assert genome.neurons[0] == 5
    # It stands beside the places of its generation, all of which are filled.
    generation = [place(t)[1] for t in trials if place(t)[0] == place(found[0])[0]]
    assert sorted(generation)[:4] == [0, 1, 2, 3]
    assert max(generation) == place(found[0])[1]
    assert all(t.state.is_finished() for t in trials)


def test_an_enqueued_trial_whose_worker_died_is_evaluated_again_with_the_same_genome() -> None:
    whole, killed = InMemoryStorage(), InMemoryStorage()
    small_search(whole, Enqueuing(whole, {"genome": 7})).run()
    with pytest.raises(Killed):
        small_search(killed, Enqueuing(killed, {"genome": 7}, dies=True)).run()
    small_search(killed).run()

    def enqueued(storage: InMemoryStorage) -> object:
        trials = outcome(storage)[studies(storage)[0].study_name]
        return trials[max(trials, key=lambda place: place[1])]

    assert enqueued(killed) == enqueued(whole)
