"""The genetic sampler: elitism, tournaments, descent, exact generations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from searches import SPACE
from searches import child_of
from searches import finished
from searches import generations
from searches import genomes_of
from searches import loss
from searches import objective
from searches import study_of

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import set_genome
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_attributes
from optuna_wnn.store.reader import genome_attributes
from optuna_wnn.store.trials import write_constraint


def searched(n_trials: int = 80, **settings: Any) -> optuna.Study:
    """Return a study of generations of 8."""
    study = study_of(WNNGeneticSampler(**{"seed": 1, "population_size": 8, **settings}))
    study.optimize(objective, n_trials=n_trials)
    return study


def seed_trial(genome: Genome, place: int, value: float) -> FrozenTrial:
    """Return a trial as a phase before puts it into a study."""
    return optuna.create_trial(
        value=value,
        params=SPACE.parameters(genome),
        distributions=dict(SPACE.distributions()),
        system_attrs={
            **child_attributes(Child(0, place, handle=genome.handle, is_seed=True)),
            **genome_attributes(genome),
        },
    )


def test_one_worker_fills_every_generation_exactly() -> None:
    study = searched(n_trials=43)
    assert [len(g) for g in generations(study)] == [8, 8, 8, 8, 8, 3]
    for number, trial in enumerate(study.trials):
        child = child_of(trial)
        assert (child.generation, child.index) == divmod(number, 8)


def test_generations_stay_exact_whatever_becomes_of_the_trials() -> None:
    """Failed and pruned trials keep their places: no generation waits for them or grows."""
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))

    def fails_often(trial: Trial) -> float:
        genome = SPACE.suggest(trial)
        if trial.number % 3 == 1:
            raise optuna.TrialPruned
        if trial.number % 3 == 2:
            raise RuntimeError("a bad trial")
        return loss(genome)

    study.optimize(fails_often, n_trials=40, catch=(RuntimeError,))
    assert [len(g) for g in generations(study)] == [8] * 5
    usable = {trial.number for trial in finished(study)}
    assert all(usable >= set(child_of(trial).parents) for trial in study.trials)


def test_a_study_in_which_every_trial_fails_goes_on() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=4))
    study.optimize(lambda trial: float("nan") * objective(trial), n_trials=15)
    assert [len(g) for g in generations(study)] == [4, 4, 4, 3]


def test_the_first_generation_is_random_and_the_others_have_parents() -> None:
    first, *others = generations(searched())
    assert all(child_of(trial).parents == () for trial in first)
    for trial in (trial for generation in others for trial in generation):
        assert len(child_of(trial).parents) == 2


def test_parents_are_the_best_of_all_earlier_trials() -> None:
    """Parents and children compete: of everything before, exactly the best 8 can be parents."""
    study = searched(n_trials=96)
    for g, generation in enumerate(generations(study)):
        before = [t for trials in generations(study)[:g] for t in trials]
        best = sorted(before, key=lambda trial: trial.value or 0.0)[:8]
        parents = {number for trial in generation for number in child_of(trial).parents}
        assert parents <= {trial.number for trial in best}


def test_the_best_trial_is_always_among_the_parents() -> None:
    """With tournaments over everyone, every parent is the best: it cannot have been lost."""
    study = searched(n_trials=64, tournament_size=500)
    best: FrozenTrial | None = None
    for generation in generations(study):
        for trial in generation:
            assert set(child_of(trial).parents) == ({best.number} if best else set())
        pool = [*generation, *([best] if best else [])]
        best = min(pool, key=lambda trial: trial.value or 0.0)


def test_larger_tournaments_press_harder() -> None:
    def pressure(size: int) -> float:
        """Return the mean rank of a parent among the 8 best before."""
        study = searched(n_trials=160, tournament_size=size)
        ranks = []
        for g, generation in enumerate(generations(study)):
            before = [t for trials in generations(study)[:g] for t in trials]
            best = [t.number for t in sorted(before, key=lambda trial: trial.value or 0.0)[:8]]
            ranks += [best.index(n) for t in generation for n in child_of(t).parents]
        return float(np.mean(ranks))

    # The expected minimum of k of the ranks 0..7: 3.5, 1.5 and 0.6 for k of 1, 3 and 8.
    assert pressure(1) == pytest.approx(3.5, abs=0.6)
    assert pressure(3) == pytest.approx(1.53, abs=0.5)
    assert pressure(8) == pytest.approx(0.42, abs=0.3)


def test_without_mutation_every_cluster_comes_whole_from_a_parent() -> None:
    """Crossed children may do without mutation, and then train nothing new."""
    study = searched(crossover_rate=1.0, mutation_rate=0.0, population_size=20, n_trials=60)
    genomes = genomes_of(study)
    taken: Counter[int] = Counter()
    for trial in generations(study)[1]:
        child, (first, second) = genomes[trial.number], child_of(trial).parents
        for k in range(child.n_clusters):
            from_first = np.array_equal(child.cluster(k), genomes[first].cluster(k))
            from_second = np.array_equal(child.cluster(k), genomes[second].cluster(k))
            # Two equal parents have no new child unless it mutates.
            assert from_first or from_second or first == second or _was_known(genomes, trial)
            taken[int(from_second)] += first != second
    assert min(taken.values()) > 10


def cluster_losses(genome: Genome) -> Any:
    """Return a loss for each cluster that depends on it alone, ``float64[K]``."""
    return np.array([genome.cluster(k).mean() for k in range(genome.n_clusters)])


def mixed(n_trials: int = 64, **settings: Any) -> optuna.Study:
    """Return a study of generations of 8 whose objective stores the losses of the clusters."""
    study = study_of(
        WNNGeneticSampler(
            **{"seed": 1, "population_size": 8, "crossover_rate": 1.0, **settings},
        )
    )

    def objective(trial: Trial) -> float:
        genome = SPACE.suggest(trial)
        set_genome(trial, genome, cluster_losses(genome))
        return float(cluster_losses(genome).sum())

    study.optimize(objective, n_trials=n_trials)
    return study


def test_the_first_child_of_a_generation_has_the_best_cluster_of_all_trials_everywhere() -> None:
    study = mixed(mutation_rate=1.0)
    losses = np.array([cluster_losses(genome) for genome in genomes_of(study)])
    for generation in generations(study)[1:]:
        first = generation[0].number
        assert (losses[first] == losses[:first].min(axis=0)).all()


def test_the_other_children_are_its_mutants() -> None:
    study = mixed(mutation_rate=0.0)
    genomes = genomes_of(study)
    for generation in generations(study)[1:]:
        best, *others = (genomes[trial.number] for trial in generation)
        for other in others:
            same = [np.array_equal(best.cluster(k), other.cluster(k)) for k in range(4)]
            assert 2 <= sum(same) <= 3  # one cluster mutates, or two if the first try was known


def test_the_parents_of_a_mixed_child_are_those_that_gave_it_a_cluster() -> None:
    study = mixed(mutation_rate=1.0)
    genomes = genomes_of(study)
    for generation in generations(study)[1:]:
        child = genomes[generation[0].number]
        for number in child_of(generation[0]).parents:
            gave = genomes[number]
            assert any(np.array_equal(child.cluster(k), gave.cluster(k)) for k in range(4))


def test_mixing_beats_blind_crossover_where_the_loss_is_a_sum_over_clusters() -> None:
    informed, blind = (
        min(trial.value or 0.0 for trial in mixed(160, crossover=crossover).trials)
        for crossover in ("informed", "blind")
    )
    assert informed < blind


def test_without_losses_of_clusters_crossover_is_blind() -> None:
    one, other = searched(crossover="informed"), searched(crossover="blind")
    assert [t.params for t in one.trials] == [t.params for t in other.trials]


def _was_known(genomes: list[Genome], trial: FrozenTrial) -> bool:
    """Return whether a trial needed several attempts, since its first were known."""
    return genomes[trial.number].digest not in {g.digest for g in genomes[: trial.number]}


def test_without_crossover_a_child_is_its_first_parent_mutated() -> None:
    study = searched(crossover_rate=0.0, mutation_rate=0.0, population_size=10)
    genomes = genomes_of(study)
    for trial in study.trials[10:]:
        child, parent = genomes[trial.number], genomes[child_of(trial).parents[0]]
        changed = [k for k in range(4) if not np.array_equal(child.cluster(k), parent.cluster(k))]
        assert len(changed) == 1


@pytest.mark.parametrize("free", ["neurons", "bits", "connections"])
def test_children_differ_from_parents_in_the_free_dimension_only(free: Any) -> None:
    space = GenomeSpace(SPACE.bounds, (free,), (3, 4))
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))
    study.optimize(lambda trial: loss(space.suggest(trial)), n_trials=40)
    for genome in genomes_of(study):
        assert free == "neurons" or set(genome.neurons.tolist()) == {3}
        assert free == "bits" or set(genome.bits.tolist()) == {4}


def test_it_finds_better_genomes_than_chance() -> None:
    by_chance = study_of(optuna.samplers.RandomSampler(seed=0))
    by_chance.optimize(objective, n_trials=200)
    assert searched(n_trials=200).best_value < by_chance.best_value - 2


def test_on_ordinary_parameters_it_holds_its_own_against_nsga_ii() -> None:
    def sphere(trial: Trial) -> float:
        return sum((trial.suggest_float(f"x{i}", -5, 5) - 1) ** 2 for i in range(6))

    values = {}
    for name, sampler in (
        ("ours", WNNGeneticSampler(seed=1, population_size=20)),
        ("nsga", NSGAIISampler(seed=1, population_size=20)),
        ("random", optuna.samplers.RandomSampler(seed=1)),
    ):
        study = study_of(sampler)
        study.optimize(sphere, n_trials=300)
        values[name] = study.best_value
    assert values["ours"] < values["random"] / 4
    assert values["ours"] < 2 * values["nsga"]


def test_maximizing_is_minimizing_the_negative() -> None:
    one, other = study_of(WNNGeneticSampler(seed=1, population_size=8)), None
    one.optimize(objective, n_trials=40)
    other = study_of(WNNGeneticSampler(seed=1, population_size=8), direction="maximize")
    other.optimize(lambda trial: -objective(trial), n_trials=40)
    assert [t.params for t in one.trials] == [t.params for t in other.trials]


def test_infeasible_trials_are_parents_only_where_feasible_ones_are_few() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))

    def constrained(trial: Trial) -> float:
        genome = SPACE.suggest(trial)
        write_constraint(study, trial, 10.0 - genome.n_neurons)  # more than 10 neurons
        return loss(genome)

    study.optimize(constrained, n_trials=80)
    feasible = {t.number for t in study.trials if max(t.constraints.values()) <= 0}
    parents = {n for trial in generations(study)[-1] for n in child_of(trial).parents}
    assert parents <= feasible


# -- where studies start --------------------------------------------------------------------------


def test_seeds_are_the_parents_of_the_first_generation() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))
    for place in range(3):
        study.add_trial(seed_trial(SPACE.sample(np.random.default_rng(place)), place, 50.0))
    SPACE.write(study)
    study.optimize(objective, n_trials=13)
    assert [len(g) for g in generations(study)] == [8, 8]
    for trial in generations(study)[0][3:]:
        assert set(child_of(trial).parents) <= {0, 1, 2}


def test_a_full_first_generation_of_seeds_is_not_evaluated_again() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))
    for place in range(8):
        genome = SPACE.sample(np.random.default_rng(place))
        study.add_trial(seed_trial(genome, place, loss(genome)))
    SPACE.write(study)
    study.optimize(objective, n_trials=8)
    assert [len(g) for g in generations(study)] == [8, 8]
    digests = [genome.digest for genome in genomes_of(study)]
    assert len(set(digests)) == 16


# -- the traps of population-based samplers -------------------------------------------------------


def test_a_batch_larger_than_the_population_spans_generations() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=8))
    for _ in range(3):
        batch = [study.ask() for _ in range(20)]
        values = [objective(trial) for trial in batch]
        for trial, value in zip(reversed(batch), reversed(values), strict=True):
            study.tell(trial, value)
    assert [len(g) for g in generations(study)] == [8, 8, 8, 8, 8, 8, 8, 4]
    assert len({genome.digest for genome in genomes_of(study)}) == 60
    assert all(child_of(trial).parents for trial in generations(study)[-1])


def test_a_straggler_that_finishes_last_becomes_a_parent() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=4, tournament_size=50))
    straggler = study.ask()
    objective(straggler)
    study.optimize(objective, n_trials=30)
    study.tell(straggler, -100.0)
    study.optimize(objective, n_trials=4)
    assert all(set(child_of(trial).parents) == {0} for trial in study.trials[-3:])


def test_a_fully_enqueued_trial_becomes_a_parent() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=4, tournament_size=50))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    study.enqueue_trial({"x": 0.0})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=8)
    assert study.trials[2].params == {"x": 0.0}
    assert all(set(child_of(trial).parents) == {2} for trial in study.trials[4:8])


def test_an_added_trial_becomes_a_parent() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=4, tournament_size=50))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=6)
    study.add_trial(
        optuna.create_trial(
            value=-1.0,
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
        )
    )
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=6)
    assert all(set(child_of(trial).parents) == {6} for trial in study.trials[9:])


def test_trials_of_another_sampler_become_parents() -> None:
    study = study_of(optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=10)
    best = study.best_trial.number
    study.sampler = WNNGeneticSampler(seed=1, population_size=4, tournament_size=50)
    study.optimize(objective, n_trials=8)
    assert all(set(child_of(trial).parents) == {best} for trial in study.trials[14:15])


def test_trials_without_a_genome_are_no_parents_of_genomes() -> None:
    study = study_of(WNNGeneticSampler(seed=1, population_size=4))
    for value in range(3):
        study.add_trial(optuna.create_trial(value=-float(value)))
    study.optimize(objective, n_trials=12)
    parents = {n for trial in study.trials[3:] for n in child_of(trial).parents}
    assert parents
    assert min(parents) >= 3


def test_a_renamed_subclass_continues_the_study() -> None:
    class Renamed(WNNGeneticSampler):
        pass

    study = study_of(WNNGeneticSampler(seed=1, population_size=8))
    study.optimize(objective, n_trials=20)
    study.sampler = Renamed(seed=1, population_size=8)
    study.optimize(objective, n_trials=60)
    assert [t.params for t in study.trials] == [t.params for t in searched().trials]


# -- exhausted spaces -----------------------------------------------------------------------------


def test_a_small_space_is_searched_without_repetition_and_then_the_study_still_ends() -> None:
    """Wirings of 2 inputs of 4 by one neuron in each of two clusters: 36 genomes."""
    space = GenomeSpace(Bounds(2, 4, (1, 1), (2, 2)))
    study = study_of(WNNGeneticSampler(seed=1, population_size=6))
    study.optimize(lambda trial: loss(space.suggest(trial)), n_trials=45)
    digests = [genome.digest for genome in genomes_of(study)]
    assert len(set(digests[:30])) == 30
    assert len(set(digests)) >= 34


def test_where_nothing_can_change_the_study_still_ends() -> None:
    space = GenomeSpace(Bounds(2, 2, (1, 1), (2, 2)))
    study = study_of(WNNGeneticSampler(seed=1, population_size=3))
    study.optimize(lambda trial: loss(space.suggest(trial)), n_trials=9)
    assert len(finished(study)) == 9
