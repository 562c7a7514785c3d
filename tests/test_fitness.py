"""Orders over trials: cross-entropy, harmonic ranks, and feasibility first."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_wnn.errors import InputError
from optuna_wnn.fitness import Fitness
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.fitness import harmonic_rank
from optuna_wnn.fitness import non_dominated_ranks
from optuna_wnn.fitness import normalized
from optuna_wnn.fitness import shared_ranks


CE = Fitness(FitnessCalculatorType.CE)
HARMONIC_RANK = Fitness(FitnessCalculatorType.HARMONIC_RANK)
NORMALIZED = Fitness(FitnessCalculatorType.NORMALIZED)
PARETO = Fitness(FitnessCalculatorType.PARETO)
ALL = [Fitness(kind) for kind in FitnessCalculatorType]

losses = st.integers(0, 3).flatmap(
    lambda m: st.lists(
        st.lists(st.integers(-5, 5).map(float), min_size=m + 1, max_size=m + 1), max_size=20
    )
)


def test_ce_orders_by_the_first_objective_and_breaks_ties_by_the_others() -> None:
    assert CE.order([[2, 0, 0], [1, 9, 9], [1, 9, 8], [1, 3, 9]]).tolist() == [3, 2, 1, 0]


def test_tied_values_share_their_rank() -> None:
    assert shared_ranks(np.array([3.0, 1.0, 3.0, 2.0, 9.0])).tolist() == [3, 1, 3, 2, 5]


def test_1st_and_50th_ranks_behind_3rd_in_both() -> None:
    """The harmonic mean is of goodness; that of the rank numbers would prefer (1st, 50th)."""
    first = np.arange(50.0)
    second = np.arange(50.0)
    second[0], second[49] = 49.0, 0.0  # trial 0 is (1st, 50th), trial 2 is (3rd, 3rd)
    order = HARMONIC_RANK.order(np.stack([first, second], axis=1)).tolist()
    assert order.index(2) < order.index(0)
    assert order[0] == 1
    assert order[-2:] == [0, 49] or order[-2:] == [49, 0]


def test_goodness_of_the_harmonic_rank() -> None:
    scores = harmonic_rank(np.array([[0.0, 0.0], [1.0, 1.0]]), np.ones(2))
    assert scores.tolist() == [1.0, 0.5]
    crossed = harmonic_rank(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([3.0, 1.0]))
    assert crossed.tolist() == pytest.approx([4 / (3 / 1 + 1 / 0.5), 4 / (3 / 0.5 + 1 / 1)])


def test_weights_decide_between_objectives() -> None:
    crossed = [[0.0, 1.0], [1.0, 0.0]]
    for weights, best in (((9.0, 1.0), 0), ((1.0, 9.0), 1)):
        order = Fitness(FitnessCalculatorType.HARMONIC_RANK, weights).order(crossed)
        assert order[0] == best


@pytest.mark.parametrize("fitness", ALL)
def test_feasible_trials_come_first_then_the_smallest_violation(fitness: Fitness) -> None:
    values = np.array([[0.0, 0.0], [5.0, 5.0], [1.0, 1.0], [9.0, 9.0]])
    violations = np.array([0.2, 0.0, 0.1, -7.0])
    assert fitness.order(values, violations).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("fitness", ALL)
def test_infeasible_trials_do_not_change_the_order_of_feasible_ones(fitness: Fitness) -> None:
    values = np.random.default_rng(0).integers(0, 9, (12, 2)).astype(float)
    alone = fitness.order(values[:6])
    both = fitness.order(values, np.array([0.0] * 6 + [1.0] * 6))
    assert both[:6].tolist() == alone.tolist()


@pytest.mark.parametrize("fitness", ALL)
@given(values=losses)
def test_every_order_is_a_permutation_that_respects_dominance(
    fitness: Fitness, values: list[list[float]]
) -> None:
    order = fitness.order(values).tolist()
    assert sorted(order) == list(range(len(values)))
    place = {trial: i for i, trial in enumerate(order)}
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            if one != other and all(a <= b for a, b in zip(one, other, strict=True)):
                assert place[i] < place[j]


@pytest.mark.parametrize("fitness", [f for f in ALL if f != PARETO])
@given(values=losses)
def test_equal_trials_keep_the_given_order(fitness: Fitness, values: list[list[float]]) -> None:
    order = fitness.order(values).tolist()
    for one, other in itertools.pairwise(order):
        assert values[one] != values[other] or one < other


def test_infinite_losses_rank_last() -> None:
    for fitness in ALL:
        assert fitness.order([[np.inf, np.inf], [1.0, 1.0], [-np.inf, 0.0]]).tolist() == [2, 1, 0]


def test_normalized_counts_differences_where_ranks_do_not() -> None:
    """Trial 1 is second in both, but only by a hair; the others are far off in one."""
    values = [[0.0, 100.0], [1.0, 1.0], [100.0, 0.0]]
    assert normalized(np.array(values), np.ones(2)).tolist() == [0.5, 0.99, 0.5]
    assert NORMALIZED.order(values).tolist() == [1, 0, 2]
    assert normalized(np.array([[3.0], [3.0]]), np.ones(1)).tolist() == [1.0, 1.0]


def test_pareto_puts_fronts_in_order_and_the_less_crowded_first() -> None:
    front = [[0.0, 9.0], [1.0, 8.0], [1.5, 7.5], [5.0, 4.0], [9.0, 0.0]]
    behind = [[2.0, 9.5], [9.5, 9.5]]
    values = np.array([*behind, *front])
    assert non_dominated_ranks(values).tolist() == [1, 2, 0, 0, 0, 0, 0]
    assert PARETO.order(values).tolist() == [2, 6, 5, 4, 3, 0, 1]


def test_an_accuracy_floor_puts_worse_trials_behind() -> None:
    """The second objective is the accuracy, signed so that lower is better."""
    fitness = Fitness(accuracy_floor=0.5)
    assert fitness.order([[0.0, -0.4], [1.0, -0.3], [9.0, -0.5]]).tolist() == [2, 0, 1]
    assert fitness.order([[1.0], [0.0]]).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"accuracy_floor: 1.5 is not in \[0, 1\]"):
        Fitness(accuracy_floor=1.5)


@pytest.mark.parametrize("name", ["CE", "HARMONIC_RANK"])
def test_a_calculator_goes_by_its_name(name: str) -> None:
    assert Fitness.of(name) == Fitness(FitnessCalculatorType(name)) == Fitness.of(Fitness.of(name))


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(InputError, match="'BEST' is not one of CE, HARMONIC_RANK, NORM"):
        Fitness.of("BEST")
    for weights in ((0.0, 1.0), (1.0, float("nan")), (1.0, float("inf"))):
        with pytest.raises(InputError, match="not all above 0"):
            Fitness(FitnessCalculatorType.HARMONIC_RANK, weights)
    with pytest.raises(InputError, match="2 weights for 3 objectives"):
        Fitness(FitnessCalculatorType.HARMONIC_RANK, (1.0, 1.0)).order([[1.0, 2.0, 3.0]])
