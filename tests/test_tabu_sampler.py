"""The tabu sampler: what becomes current, what is tabu, aspiration, sources, hill climbing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from searches import SPACE
from searches import child_of
from searches import finished
from searches import genomes_of
from searches import loss
from searches import objective
from searches import study_of

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import child_attributes
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_attributes


WIRING = GenomeSpace(Bounds(2, 12, (2, 2), (3, 3)), ("connections",), (2, 3))


def searched(
    n_trials: int = 61, goal: Callable[[Trial], float] = objective, **settings: Any
) -> optuna.Study:
    """Return a study of one start and iterations of 6 neighbours."""
    study = study_of(WNNTabuSearchSampler(**{"seed": 1, "n_neighbors": 6, **settings}))
    study.optimize(goal, n_trials=n_trials)
    return study


def iterations(study: optuna.Study) -> list[list[FrozenTrial]]:
    """Return the trials by iteration; the first is where the search starts."""
    trials = study.get_trials(deepcopy=False)
    newest = max(child_of(trial).generation for trial in trials)
    return [[t for t in trials if child_of(t).generation == g] for g in range(newest + 1)]


def currents(study: optuna.Study, source: int = 0) -> list[int]:
    """Return from which trial a source moved in each iteration."""
    found = []
    for trials in iterations(study)[1:]:
        parents = {child_of(t).parents for t in trials if child_of(t).source == source}
        assert len(parents) == 1, "one iteration moves from one genome"
        ((parent,),) = parents
        found.append(parent)
    return found


def value_of(study: optuna.Study, number: int) -> float:
    value = study.get_trials(deepcopy=False)[number].value
    assert value is not None
    return value


# -- moves ----------------------------------------------------------------------------------------


def test_every_neighbour_is_one_move_from_the_current_genome() -> None:
    study = searched()
    genomes = genomes_of(study)
    for trial in study.trials[1:]:
        here, there = genomes[child_of(trial).parents[0]], genomes[trial.number]
        changed = [k for k in range(4) if not np.array_equal(here.cluster(k), there.cluster(k))]
        kind, cluster, *_ = child_of(trial).attribute or ("", -1)
        assert changed == [cluster]
        neurons = int(there.neurons[cluster] - here.neurons[cluster])
        bits = int(there.bits[cluster] - here.bits[cluster])
        assert {
            "add_neuron": neurons > 0,
            "remove_neuron": neurons < 0,
            "add_bit": bits > 0,
            "remove_bit": bits < 0,
            "rewire": neurons == bits == 0,
        }[kind]
        assert neurons == 0 or bits == 0


def test_neighbours_are_distinct_and_new() -> None:
    digests = [genome.digest for genome in genomes_of(searched(n_trials=121))]
    assert len(set(digests)) == 121


def test_iterations_are_exact() -> None:
    study = searched(n_trials=40)
    assert [len(trials) for trials in iterations(study)] == [1, 6, 6, 6, 6, 6, 6, 3]


def test_iterations_stay_exact_where_trials_fail() -> None:
    def fails(trial: Trial) -> float:
        if trial.number % 2:
            raise optuna.TrialPruned
        return objective(trial)

    study = searched(goal=fails, n_trials=40)
    assert [len(trials) for trials in iterations(study)] == [1, 6, 6, 6, 6, 6, 6, 3]
    done = {trial.number for trial in finished(study)}
    assert done >= set(currents(study))


def test_where_a_whole_iteration_fails_the_search_stays() -> None:
    def fails(trial: Trial) -> float:
        value = objective(trial)
        return float("nan") if 7 <= trial.number < 13 else value

    study = searched(goal=fails, n_trials=25)
    here = currents(study)
    assert here[1] == here[2]


# -- what becomes current -------------------------------------------------------------------------


def test_the_best_neighbour_becomes_current_if_nothing_is_tabu() -> None:
    study = searched(n_trials=121, tabu_tenure=0)
    for trials, here in zip(iterations(study)[1:], currents(study)[1:], strict=False):
        assert value_of(study, here) == min(value_of(study, t.number) for t in trials)


def test_the_current_genome_gets_worse_where_all_neighbours_are() -> None:
    """That is how the search leaves a local optimum; the best is not forgotten."""
    start: list[Genome] = []

    def trap(trial: Trial) -> float:
        genome = SPACE.suggest(trial)
        start[:] = start or [genome]
        return 0.0 if genome == start[0] else 1.0 + loss(genome)

    study = searched(goal=trap, n_trials=20)
    assert value_of(study, currents(study)[0]) == 0.0
    assert value_of(study, currents(study)[1]) > 1.0
    assert study.best_trial.number == 0


def flat(values: dict[int, float]) -> Callable[[Trial], float]:
    """Return an objective that gives trials the values of a script, and 9 to all others."""

    def scripted(trial: Trial) -> float:
        WIRING.suggest(trial)
        return values.get(trial.number, 9.0)

    return scripted


@pytest.mark.parametrize(("again", "taken"), [(4.0, True), (5.0, False), (5.5, False)])
def test_a_tabu_move_is_taken_only_where_it_beats_the_best(again: float, taken: bool) -> None:
    """From 0 (5.0) to 1 (6.0): the way back is tabu, unless 0 is better than ever this time."""
    values = [5.0, 6.0, 6.0, again, again, 9.0, 9.0]
    study = study_of(WNNTabuSearchSampler(seed=1, n_neighbors=2, tabu_tenure=9))
    study.enqueue_trial({"x": 0})
    for value in values:
        trial = study.ask()
        trial.suggest_int("x", 0, 1)
        study.tell(trial, value)
    here = [study.trials[number].params["x"] for number in currents(study)]
    assert here == [0, 1, 0 if taken else 1]


def test_no_accepted_move_was_tabu_unless_it_beat_the_best() -> None:
    """Replay a long search from its storage and check every step by the definition."""
    tenure = 7
    study = searched(n_trials=6 * 60 + 1, goal=wiring_objective, tabu_tenure=tenure)
    here = currents(study)
    tabu: dict[Any, int] = {}
    best = value_of(study, 0)
    n_refused = 0
    for iteration, trials in enumerate(iterations(study)[1:-1], start=1):
        moved = here[iteration]
        ranked = sorted(trials, key=lambda t: (value_of(study, t.number), child_of(t).index))
        admissible = [
            t
            for t in ranked
            if value_of(study, t.number) < best or tabu.get(child_of(t).attribute, 0) < iteration
        ]
        n_refused += bool(admissible) and admissible[0] is not ranked[0]
        assert moved == (admissible[0].number if admissible else here[iteration - 1])
        if admissible:
            tabu[child_of(admissible[0]).reverse] = iteration + tenure
            best = min(best, value_of(study, moved))
    assert n_refused > 0, "the search was never refused a move: nothing was tested"


def wiring_objective(trial: Trial) -> float:
    genome = WIRING.suggest(trial)
    return int(np.abs(genome.connections - 6).sum()) + 0.001 * (genome.handle % 100)


# -- one neighbour, several sources ---------------------------------------------------------------


def test_with_one_neighbour_it_is_a_hill_climber_that_never_gets_worse() -> None:
    study = searched(n_trials=200, n_neighbors=1)
    values = [value_of(study, number) for number in currents(study)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 3
    seen = [value_of(study, number) for number in range(199)]
    assert values == np.minimum.accumulate(seen).tolist()


def test_the_hill_climber_takes_what_is_equal() -> None:
    """A step to an equal neighbour drifts on plateaus, where a strict one would stand still."""
    study = searched(n_trials=20, n_neighbors=1, goal=flat({}))
    assert currents(study) == list(range(19))


def test_several_sources_start_from_the_best_and_share_the_neighbours() -> None:
    study = study_of(WNNTabuSearchSampler(seed=1, n_neighbors=6, n_sources=2))
    SPACE.write(study)
    for place, value in enumerate((30.0, 10.0, 20.0)):
        genome = SPACE.sample(np.random.default_rng(place))
        study.add_trial(
            optuna.create_trial(
                value=value,
                params=SPACE.parameters(genome),
                distributions=dict(SPACE.distributions()),
                system_attrs={
                    **child_attributes(Child(0, place, is_seed=True)),
                    **genome_attributes(genome),
                },
            )
        )
    study.optimize(objective, n_trials=18)
    assert [len(trials) for trials in iterations(study)] == [3, 6, 6, 6]
    assert currents(study, 0)[0] == 1
    assert currents(study, 1)[0] == 2
    for trials in iterations(study)[1:]:
        assert [child_of(t).source for t in trials] == [0, 1, 0, 1, 0, 1]


def test_every_source_moves_among_its_own_neighbours_with_its_own_tabu_list() -> None:
    study = searched(n_trials=242, n_sources=2, tabu_tenure=0)
    for source in (0, 1):
        here = currents(study, source)
        for trials, before, moved in zip(iterations(study)[1:], here, here[1:], strict=False):
            own = [t for t in trials if child_of(t).source == source]
            assert moved in {before, *(t.number for t in own)}
            assert value_of(study, moved) == min(value_of(study, t.number) for t in own)


def test_what_is_tabu_for_one_source_is_free_for_another() -> None:
    """One source goes from 0 to 1 while the other goes from 1 to 0, and neither may return."""
    study = study_of(WNNTabuSearchSampler(seed=1, n_neighbors=2, n_sources=2, tabu_tenure=99))
    for start in (0, 1):
        study.enqueue_trial({"x": start})
    study.optimize(lambda trial: float(trial.suggest_int("x", 0, 1)), n_trials=20)
    assert [value_of(study, number) for number in currents(study, 0)] == [0.0] + [1.0] * 8
    assert [value_of(study, number) for number in currents(study, 1)] == [1.0] + [0.0] * 8


# -- ordinary parameters --------------------------------------------------------------------------


def test_on_ordinary_parameters_one_changes_at_a_time() -> None:
    def sphere(trial: Trial) -> float:
        x = [trial.suggest_int(f"x{i}", -9, 9) for i in range(3)]
        y = trial.suggest_float("y", 1e-3, 1e3, log=True)
        z = trial.suggest_categorical("z", ["a", "b", "c"])
        return sum((v - 2) ** 2 for v in x) + math.log(y) ** 2 + (z != "b")

    study = searched(n_trials=121, goal=sphere)
    everything = study.trials
    for trial in everything[1:]:
        parent = everything[child_of(trial).parents[0]]
        changed = [name for name in trial.params if trial.params[name] != parent.params[name]]
        assert len(changed) == 1
        assert child_of(trial).attribute[:2] == ("set", changed[0])  # type: ignore[index]
    for trials in iterations(study)[1:]:
        assert len({str(trial.params) for trial in trials}) == len(trials)
    assert study.best_value < value_of(study, 0) / 5


def test_going_back_to_the_old_value_is_tabu() -> None:
    """Of two values, the search takes the worse one and may not return for the tenure."""

    def two(trial: Trial) -> float:
        return float(trial.suggest_categorical("x", [0, 1]))

    for tenure, seen in ((0, [0.0, 1.0] * 4), (3, [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])):
        study = searched(n_trials=10, n_neighbors=2, goal=two, tabu_tenure=tenure)
        study = study_of(WNNTabuSearchSampler(seed=1, n_neighbors=2, tabu_tenure=tenure))
        study.enqueue_trial({"x": 0})
        study.optimize(two, n_trials=20)
        # Aspiration asks for better than the best, and 0 again is only as good.
        assert [value_of(study, number) for number in currents(study)][:8] == seen


def test_enqueued_trials_do_not_claim_a_move_that_they_did_not_make() -> None:
    study = searched(n_trials=10)
    study.enqueue_trial({"genome": 7})
    study.optimize(objective, n_trials=3)
    child = child_of(study.trials[10])
    assert child.attribute is None
    assert child.reverse is None


# -- the traps ------------------------------------------------------------------------------------


def test_a_batch_larger_than_an_iteration_spans_iterations() -> None:
    study = study_of(WNNTabuSearchSampler(seed=1, n_neighbors=6))
    for _ in range(3):
        batch = [study.ask() for _ in range(20)]
        for trial in reversed(batch):
            study.tell(trial, objective(trial))
    assert [len(t) for t in iterations(study)] == [1, *[6] * 9, 5]
    assert len({genome.digest for genome in genomes_of(study)}) == 60


def test_a_straggler_moves_the_search() -> None:
    study = searched(n_trials=7)
    straggler = study.ask()
    objective(straggler)
    study.optimize(objective, n_trials=5)
    study.tell(straggler, -100.0)
    study.optimize(objective, n_trials=6)
    assert currents(study)[-1] == straggler.number


def test_a_renamed_subclass_continues_the_study() -> None:
    class Renamed(WNNTabuSearchSampler):
        pass

    study = searched(n_trials=20)
    study.sampler = Renamed(seed=1, n_neighbors=6)
    study.optimize(objective, n_trials=41)
    assert [t.params for t in study.trials] == [t.params for t in searched().trials]


@pytest.mark.parametrize("n_neighbors", [1, 6])
def test_a_small_space_is_searched_and_then_the_study_still_ends(n_neighbors: int) -> None:
    space = GenomeSpace(Bounds(2, 4, (1, 1), (2, 2)))  # 36 genomes
    study = searched(
        n_trials=45, n_neighbors=n_neighbors, goal=lambda trial: loss(space.suggest(trial))
    )
    digests = [genome.digest for genome in genomes_of(study)]
    assert len(set(digests[:25])) == 25
    assert len(set(digests)) >= 30


def test_where_nothing_can_change_the_study_still_ends() -> None:
    space = GenomeSpace(Bounds(2, 2, (1, 1), (2, 2)))
    study = searched(n_trials=9, goal=lambda trial: loss(space.suggest(trial)))
    assert len(finished(study)) == 9


def test_first_improvement_ends_an_iteration_at_the_first_neighbour_that_is_no_worse() -> None:
    """Its trials before the last of an iteration are all worse than where it stands."""
    values = np.random.default_rng(3).integers(0, 1000, 400)
    study = optuna.create_study(
        sampler=WNNTabuSearchSampler(seed=1, n_neighbors=6, improvement="first")
    )

    def objective(trial: optuna.Trial) -> float:
        return float(values[trial.suggest_int("x", 0, 399)])

    study.optimize(objective, n_trials=120)
    children = [read_child(trial.system_attrs) for trial in study.trials]
    by_iteration: dict[int, list[optuna.trial.FrozenTrial]] = {}
    for trial, child in zip(study.trials, children, strict=True):
        assert child is not None
        by_iteration.setdefault(child.generation, []).append(trial)
    short = 0
    for iteration in range(1, max(by_iteration)):
        trials = by_iteration[iteration]
        child = read_child(trials[0].system_attrs)
        assert child is not None
        current = study.trials[child.parents[0]]
        losses = [trial.value for trial in trials]
        if len(trials) < 6:
            short += 1
            assert current.value is not None
            assert losses[-1] is not None
            assert losses[-1] <= current.value
    assert short > 5


def test_first_improvement_needs_a_single_source() -> None:
    with pytest.raises(InputError, match="n_sources=1"):
        WNNTabuSearchSampler(n_sources=2, improvement="first")
    with pytest.raises(InputError, match="must be one of best, first"):
        WNNTabuSearchSampler(improvement="second")  # type: ignore[arg-type]
