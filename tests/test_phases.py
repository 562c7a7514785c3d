"""The phased search: six chained studies, each of which starts from the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from runs import DigestEvaluator
from runs import connections_of
from runs import genome_of
from runs import outcome
from runs import place
from runs import small_config
from runs import small_search
from runs import small_task
from runs import studies

from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.evaluators.base import Moves
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Dimension
from optuna_wnn.genome import Genome
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.store.places import read_child


@pytest.fixture(scope="module")
def finished() -> InMemoryStorage:
    """A finished run of six phases; not to be changed."""
    storage = InMemoryStorage()
    small_search(storage, search={"trials": 20, "population_size": 5, "n_neighbors": 5}).run()
    return storage


def evaluated(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that the phase evaluated itself."""
    return [t for t in study.trials if report.SEEDED_FROM not in t.user_attrs]


# -- the studies ---------------------------------------------------------------------------------


def test_there_are_six_studies_of_two_objectives(finished: InMemoryStorage) -> None:
    found = studies(finished)
    assert [study.study_name for study in found] == [
        "small/1-ga-neurons",
        "small/2-ts-neurons",
        "small/3-ga-bits",
        "small/4-ts-bits",
        "small/5-ga-connections",
        "small/6-ts-connections",
    ]
    for i, study in enumerate(found):
        assert study.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
        assert study.metric_names == ["cross-entropy", "accuracy"]
        assert study.user_attrs["phase"] == i + 1
        assert study.user_attrs["ended"] == "all 20 trials"
        assert len(evaluated(study)) == 20
        assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_the_phases_are_data() -> None:
    storage = InMemoryStorage()
    phases = [
        {"method": "ts", "free": "connections", "trials": 3},
        {"method": "ga", "free": ["neurons", "bits"]},
        {"method": "ts", "free": "connections"},
    ]
    small_search(storage, phases=phases).run()
    assert {study.study_name: len(evaluated(study)) for study in studies(storage)} == {
        "small/1-ts-connections": 3,
        "small/2-ga-neurons-bits": 9,
        "small/3-ts-connections": 9,
    }


def test_trials_say_how_large_they_are(finished: InMemoryStorage) -> None:
    for study in studies(finished):
        for trial in study.trials:
            genome = genome_of(study, trial.number)
            assert trial.user_attrs["neurons"] == genome.n_neurons
            assert trial.params["genome"] >= 0


def test_stored_genomes_have_their_best_neurons_first(finished: InMemoryStorage) -> None:
    evaluator = DigestEvaluator()
    for study in studies(finished):
        for trial in study.trials:
            genome = genome_of(study, trial.number)
            order = evaluator.evaluate(genome).neuron_order
            assert (order == np.arange(genome.n_neurons)).all()


# -- how a phase starts --------------------------------------------------------------------------


def test_trial_0_is_the_best_trial_of_the_phase_before(finished: InMemoryStorage) -> None:
    found = studies(finished)
    for before, study in pairwise(found):
        best = min(before.trials, key=lambda t: (t.values[0], -t.values[1]))
        assert study.trials[0].values == best.values
        assert genome_of(study, 0) == genome_of(before, best.number)
        assert study.user_attrs[report.SEEDED_FROM] == f"{before.study_name} #{best.number}"
        assert study.trials[0].user_attrs[report.SEEDED_FROM] == study.user_attrs["seeded from"]


def test_the_first_generation_is_the_best_of_the_phase_before(finished: InMemoryStorage) -> None:
    found = studies(finished)
    for before, study in pairwise(found):
        ranked = sorted(before.trials, key=lambda t: (t.values[0], -t.values[1]))
        digests = list(dict.fromkeys(genome_of(before, t.number).digest for t in ranked))
        seeds = [t for t in study.trials if report.SEEDED_FROM in t.user_attrs]
        assert [genome_of(study, t.number).digest for t in seeds] == digests[:5]
        assert [place(t) for t in seeds] == [(0, i) for i in range(5)]


def test_seeds_show_the_parameters_of_their_own_phase(finished: InMemoryStorage) -> None:
    bits = studies(finished)[2]
    for trial in bits.trials:
        genome = genome_of(bits, trial.number)
        shown = {name: n for name, n in trial.params.items() if name != "genome"}
        assert shown == {f"bits_{k}": int(n) for k, n in enumerate(genome.bits)}


# -- what a phase changes ------------------------------------------------------------------------


def test_a_genetic_phase_changes_only_what_is_free(finished: InMemoryStorage) -> None:
    for study, free in zip(
        studies(finished)[::2], ("neurons", "bits", "connections"), strict=True
    ):
        for trial in evaluated(study):
            child = read_child(trial.system_attrs)
            assert child is not None
            parents = [genome_of(study, number) for number in child.parents]
            genome = genome_of(study, trial.number)
            for k in range(genome.n_clusters if parents else 0):
                if free != "neurons":
                    assert genome.neurons[k] in [parent.neurons[k] for parent in parents]
                if free != "bits":
                    assert genome.bits[k] in [parent.bits[k] for parent in parents]


def test_frozen_counts_start_where_the_configuration_says(finished: InMemoryStorage) -> None:
    first = studies(finished)[0]
    assert {int(b) for t in first.trials for b in genome_of(first, t.number).bits} == {4}


def test_a_tabu_phase_makes_one_move_of_its_kind(finished: InMemoryStorage) -> None:
    for study, free in zip(
        studies(finished)[1::2], ("neurons", "bits", "connections"), strict=True
    ):
        for trial in evaluated(study):
            child = read_child(trial.system_attrs)
            assert child is not None
            (number,) = child.parents
            check_one_move(genome_of(study, number), genome_of(study, trial.number), free)


def check_one_move(parent: Genome, genome: Genome, free: str) -> None:
    changed = np.flatnonzero(parent.cluster_hashes != genome.cluster_hashes)
    assert len(changed) == 1
    before, after = (
        Counter(map(tuple, g.cluster(int(changed[0])).tolist())) for g in (parent, genome)
    )
    gone, new = list((before - after).elements()), list((after - before).elements())
    if free == "neurons":
        assert sorted((len(gone), len(new))) == [0, 1]
    elif free == "bits":
        assert len(gone) == len(new)
        assert abs(int(parent.bits[changed[0]]) - int(genome.bits[changed[0]])) == 1
        pairs = ((set(a) < set(b) or set(b) < set(a)) for a in gone for b in new)
        assert sum(pairs) >= len(gone)
    else:
        assert len(gone) == len(new) == 1
        assert len(set(gone[0]) - set(new[0])) == 1


def test_genomes_stay_within_their_bounds(finished: InMemoryStorage) -> None:
    for study in studies(finished):
        for trial in study.trials:
            genome = genome_of(study, trial.number)
            genome.check(Bounds(2, 12, (2, 5), (2, 6)))
            assert all(len(set(c)) == len(c) for c in connections_of(genome))


class Refiner(DigestEvaluator):
    """Refines by making every neuron observe the first inputs, and notes what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[frozenset[Dimension], int, int]] = []

    def refine(
        self,
        genome: Genome,
        bounds: Bounds,
        free: Collection[Dimension],
        steps: int,
        seed: int,
        moves: Moves = "blind",
    ) -> tuple[Genome, Evaluation]:
        self.told.append((frozenset(free), steps, seed))
        refined = genome.of_clusters(
            np.tile(np.arange(b), (n, 1)) for n, b in zip(genome.neurons, genome.bits, strict=True)
        )
        evaluation = self.evaluate(refined)
        return refined.reordered(evaluation.neuron_order), evaluation


def test_what_is_stored_is_the_refined_genome() -> None:
    storage, evaluator = InMemoryStorage(), Refiner()
    phases = [{"method": "ga", "free": "connections", "refine_steps": 7, "trials": 4}]
    small_search(storage, evaluator, phases=phases).run()
    (study,) = studies(storage)
    for trial, (free, steps, seed) in zip(study.trials, evaluator.told, strict=True):
        assert (set(free), steps) == ({"connections"}, 7)
        child = read_child(trial.system_attrs)
        assert child is not None
        assert seed == child.handle
        assert connections_of(genome_of(study, trial.number)) == 6 * [[0, 1, 2, 3]]


# -- when a phase ends ---------------------------------------------------------------------------


class Stuck(DigestEvaluator):
    """Finds every genome worse than the one before."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        found = super().evaluate(genome, part)
        n = len(self.seen)
        return replace(found, cross_entropy=1.0 + n, accuracy=1 / (1 + n), cluster_losses=None)


@pytest.mark.parametrize(("patience", "at_least", "newest"), [(2, 0, 2), (2, 4, 4), (None, 0, 9)])
def test_a_phase_without_progress_ends_early(
    patience: int | None, at_least: int, newest: int
) -> None:
    storage = InMemoryStorage()
    search = {
        "trials": 30,
        "population_size": 3,
        "n_neighbors": 3,
        "patience": patience,
        "min_generations": at_least,
    }
    phases = [{"method": "ga", "free": "connections"}, {"method": "ts", "free": "connections"}]
    small_search(storage, Stuck(), search=search, phases=phases).run()
    genetic, tabu = studies(storage)
    assert max(place(t)[0] for t in genetic.trials) == newest
    assert max(place(t)[0] for t in tabu.trials) == (newest if patience else 10)
    reason = f"no progress for {patience} generations" if patience else "all 30 trials"
    assert genetic.user_attrs["ended"] == tabu.user_attrs["ended"] == reason


def test_a_phase_that_has_nothing_to_change_ends_at_once() -> None:
    storage = InMemoryStorage()
    small_search(storage, space={"neurons": 3, "bits": [2, 6]}).run()
    found = studies(storage)
    assert [len(evaluated(study)) for study in found] == [4, 0, 9, 9, 9, 9]
    assert found[1].user_attrs["ended"] == "neurons cannot change within the bounds"


def test_finished_phases_are_skipped() -> None:
    storage, evaluator = InMemoryStorage(), DigestEvaluator()
    first = small_search(storage).run()
    before = outcome(storage)
    assert small_search(storage, evaluator).run() == first
    assert evaluator.seen == []
    assert outcome(storage) == before


# -- failures ------------------------------------------------------------------------------------


class Fragile(DigestEvaluator):
    """Cannot evaluate some genomes."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if genome.handle % 5 == 0 and part == "fitness":
            raise ZeroDivisionError("no luck")
        return super().evaluate(genome, part)


def ran_through(storage: InMemoryStorage, evaluator: DigestEvaluator) -> bool:
    try:
        small_search(storage, evaluator).run()
    except ZeroDivisionError:
        return False
    return True


def test_a_genome_that_cannot_be_evaluated_fails_its_trial_and_the_run_goes_on() -> None:
    storage = InMemoryStorage()
    n_failures = 0
    while n_failures < 60 and not ran_through(storage, Fragile()):
        n_failures += 1
    failed = [t for s in studies(storage) for t in s.trials if t.state == TrialState.FAIL]
    assert len(failed) == n_failures > 0
    outcome(storage)  # no place was taken twice
    assert [len(evaluated(study)) for study in studies(storage)] == 6 * [9]


def test_a_phase_whose_trials_all_failed_says_so() -> None:
    class Broken(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            raise ZeroDivisionError

    storage = InMemoryStorage()
    for _ in range(9):
        with pytest.raises(ZeroDivisionError):
            small_search(storage, Broken()).run()
    with pytest.raises(InputError, match="none of its trials could be evaluated"):
        small_search(storage, Broken()).run()


class Interrupted(DigestEvaluator):
    """Is interrupted at one evaluation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if len(self.seen) == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return super().evaluate(genome, part)


@pytest.mark.parametrize("at", [0, 3, 9, 20, 53])
def test_an_interrupted_run_goes_on_even_in_the_same_object(at: int) -> None:
    whole, storage = InMemoryStorage(), InMemoryStorage()
    small_search(whole).run()
    search = small_search(storage, Interrupted(at))
    with pytest.raises(KeyboardInterrupt):
        search.run()
    newest = studies(storage)[-1].trials
    assert all(t.state.is_finished() for t in newest)
    search.run()
    assert outcome(storage) == outcome(whole)


# -- the same run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"space": {"neurons": [2, 5], "bits": [2, 7], "start_neurons": 3}}, "space.bits.1 was 6"),
        ({"search": {"trials": 8}}, "phases.0.trials was 9, is 8"),
        ({"memory": {"prior": 0.5}}, "memory.prior was 0.8, is 0.5"),
        ({"fitness": {"calculator": "HARMONIC_RANK"}}, 'calculator was "CE", is "HARMONIC_RANK"'),
        ({"phases": [{"method": "ga", "free": "neurons"}]}, "phases had 6 entries, has 1"),
    ],
)
def test_another_configuration_under_the_same_name_is_refused(
    changes: dict[str, object], difference: str
) -> None:
    storage, evaluator = InMemoryStorage(), DigestEvaluator()
    with pytest.raises(KeyboardInterrupt):
        small_search(storage, Interrupted(12)).run()
    before = [len(study.trials) for study in studies(storage)]
    with pytest.raises(InputError) as refused:
        small_search(storage, evaluator, **changes).run()
    assert difference in str(refused.value)
    assert "choose another --name" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [len(study.trials) for study in studies(storage)] == before
    small_search(storage, evaluator, name="other", **changes).run()


def test_other_data_under_the_same_name_is_refused() -> None:
    storage = InMemoryStorage()
    small_search(storage).run()
    other = DigestEvaluator(small_task(seed=1))
    with pytest.raises(InputError, match="the task's data changed"):
        small_search(storage, other).run()


def test_two_runs_share_a_storage() -> None:
    storage, alone = InMemoryStorage(), InMemoryStorage()
    small_search(storage, name="small.2").run()
    small_search(storage).run()
    small_search(alone).run()
    assert outcome(storage) == outcome(alone)


def test_another_seed_is_another_search() -> None:
    first, second = InMemoryStorage(), InMemoryStorage()
    small_search(first).run()
    small_search(second, seed=1).run()
    assert outcome(first) != outcome(second)


# -- what is told --------------------------------------------------------------------------------


def test_progress_is_told_at_the_start_after_every_trial_and_at_the_end() -> None:
    told: list[Progress] = []
    search = small_search(InMemoryStorage())
    search.watch(told.append)
    search.run()
    for index in range(6):
        of_phase = [p for p in told if p.phase == index]
        assert [p.event for p in of_phase] == [
            "start",
            *("generation" if i in (3, 7) else "trial" for i in range(9)),
            "end",
        ]
        assert [p.n_trials for p in of_phase] == [*range(10), 9]
        assert {(p.n_phases, p.most_trials) for p in of_phase} == {(6, 9)}
        losses = [p.best[0] for p in of_phase if p.best is not None]
        assert losses == sorted(losses, reverse=True)
        assert of_phase[-1].reason == "all 9 trials"


def test_a_configuration_that_does_not_fit_the_task_is_refused_before_any_study() -> None:
    storage = InMemoryStorage()
    with pytest.raises(InputError, match="lower it to 12"):
        small_search(storage, space={"bits": 13})
    assert storage.get_all_studies() == []


def test_the_evaluator_is_the_configured_one() -> None:
    config = small_config(backend="reference", threads=3, device_bytes=1 << 30)
    evaluator = PhasedSearch(config, InMemoryStorage(), task=small_task()).evaluator
    assert evaluator.backend == "reference"
    assert (evaluator.threads, evaluator.device_bytes) == (3, 1 << 30)
