"""The workers of a study: who else is at work, and who is gone."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import InMemoryStorage
from runs import DigestEvaluator
from runs import outcome
from runs import small_search
from runs import studies

from optuna_wnn import crew
from optuna_wnn.crew import Crew
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.store.places import child_of
from optuna_wnn.store.settings import write_worker
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale


ELSEWHERE = "another-host:1:1"


class Killed(BaseException):
    """What ends a worker as a kill would."""


class Dying(DigestEvaluator):
    """Is killed at its fourth evaluation."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if len(self.seen) == 3:
            raise Killed
        return super().evaluate(genome, part)


def test_a_worker_of_another_host_is_gone_when_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = optuna.create_study()
    now = [0.0]
    monkeypatch.setattr("optuna_wnn.crew.time.monotonic", lambda: now[0])
    mine = Crew(study)
    write_worker(study, ELSEWHERE, (1,))
    mine.join()
    assert mine.others() == [ELSEWHERE]
    now[0] = crew.SILENCE + 1
    mine.look()
    assert mine.others() == []
    write_worker(study, ELSEWHERE, (2,))  # it only slept
    mine.look()
    assert mine.others() == [ELSEWHERE]
    write_worker(study, ELSEWHERE, ())
    mine.look()
    assert mine.others() == []


def test_the_trial_of_a_worker_that_died_on_another_host_is_given_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = InMemoryStorage()
    with monkeypatch.context() as patched:
        for module in ("crew", "chain", "samplers.base", "samplers.begin"):
            patched.setattr(f"optuna_wnn.{module}.this_worker", lambda: ELSEWHERE)
        patched.setattr(Crew, "leave", lambda self: None)  # a dead worker does not
        with pytest.raises(Killed):
            small_search(storage, Dying()).run()
    monkeypatch.setattr(crew, "SILENCE", 0.0)
    small_search(storage).run()
    outcome(storage)  # all trials ended, and no place was taken twice
    lost = [t for t in all_trials(studies(storage)[0]) if is_stale(t.system_attrs)]
    assert [child_of(t).worker for t in lost] == [ELSEWHERE]
