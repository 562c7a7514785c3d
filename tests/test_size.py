"""The size of a network as a third objective: searched, stored, reported and drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from runs import DigestEvaluator
from runs import genome_of
from runs import outcome
from runs import small_config
from runs import small_search
from runs import studies

from optuna_wnn import Fitness
from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.traces import read_trace


SIZED: dict[str, Any] = {"fitness": {"calculator": "NORMALIZED", "size": True}}


@pytest.fixture(scope="module")
def finished() -> InMemoryStorage:
    """A finished run of three objectives; not to be changed."""
    storage = InMemoryStorage()
    small_search(storage, threshold={"start": 0.1, "end": 0.3}, **SIZED).run()
    return storage


def test_studies_have_a_third_objective_which_is_the_network_s_size(
    finished: InMemoryStorage,
) -> None:
    for study in studies(finished):
        assert study.directions[2:] == [StudyDirection.MINIMIZE]
        assert study.metric_names == ["cross-entropy", "accuracy", "KiB"]
        for trial in study.trials:
            assert trial.values[2] == MemorySettings().kib(genome_of(study, trial.number))


def test_a_small_network_beats_an_equally_good_large_one() -> None:
    class Alike(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            found = super().evaluate(genome, part)
            return Evaluation(1.0, 0.5, found.neuron_order, None, 8)

    storage = InMemoryStorage()
    phases = [{"method": "ga", "free": ["neurons", "bits"]}]
    small_search(storage, Alike(), phases=phases, **SIZED).run()
    (study,) = studies(storage)
    sizes = [trial.values[2] for trial in study.trials]
    best = report.summarise(storage, "small").phases[0]
    assert best.losses[2] == min(sizes) < max(sizes)


def test_the_best_phase_is_chosen_by_all_three(finished: InMemoryStorage) -> None:
    summary = report.summarise(finished, "small")
    losses = np.array([phase.losses for phase in summary.phases])
    assert losses.shape == (6, 3)
    missed = np.maximum(0, 0.3 + losses[:, 1])
    assert summary.best_phase == Fitness.of("NORMALIZED").order(losses, missed)[0]


def test_a_killed_run_of_three_objectives_goes_on_as_one_that_was_not(
    finished: InMemoryStorage,
) -> None:
    class Dying(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            if len(self.seen) == 25:
                self.seen.append("")
                raise KeyboardInterrupt
            return super().evaluate(genome, part)

    storage, evaluator = InMemoryStorage(), Dying()
    changes = {"threshold": {"start": 0.1, "end": 0.3}, **SIZED}
    with pytest.raises(KeyboardInterrupt):
        small_search(storage, evaluator, **changes).run()
    small_search(storage, evaluator, **changes).run()
    assert outcome(storage) == outcome(finished)


def test_reports_and_traces_know_the_size(finished: InMemoryStorage) -> None:
    rows = report.rows(report.summarise(finished, "small"))
    place = report.HEADINGS.index("KiB")
    trace = read_trace(finished, "small")
    for row, phase, study in zip(rows, trace.phases, studies(finished), strict=False):
        assert phase.summary.best_trial is not None
        best = study.trials[phase.summary.best_trial]
        assert row[place] == f"{best.values[2]:.1f}"
        own = [t for t in study.trials if report.SEEDED_FROM not in t.user_attrs]
        assert phase.sizes == pytest.approx([t.values[2] for t in own], abs=0.05)


def test_a_run_of_two_objectives_knows_sizes_as_well() -> None:
    storage = InMemoryStorage()
    small_search(storage).run()
    trace = read_trace(storage, "small")
    assert all(np.isfinite(phase.sizes).all() and len(phase.sizes) for phase in trace.phases)


def test_what_two_objectives_were_stored_as_has_not_changed() -> None:
    assert "size" not in small_config().identity()["fitness"]
    assert small_config(**SIZED).identity()["fitness"]["size"] is True


@pytest.mark.parametrize(
    ("fitness", "message"),
    [
        ({"size": True, "weights": [1, 2]}, "2 weights for 3 objectives"),
        ({"size": 1}, "fitness.size"),
    ],
)
def test_what_does_not_fit_is_refused(fitness: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(fitness=fitness)


def test_weights_are_one_for_each_objective() -> None:
    fitness = small_config(fitness={"size": True, "weights": [3, 2, 1]}).fitness
    assert fitness.build().weights == (3, 2, 1)
