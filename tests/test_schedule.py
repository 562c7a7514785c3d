"""When a phase ends, how its accuracy bar rises, and how it widens its search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_wnn.errors import InputError
from optuna_wnn.schedule import AdaptiveScaling
from optuna_wnn.schedule import EarlyStopping
from optuna_wnn.schedule import Level
from optuna_wnn.schedule import Threshold
from optuna_wnn.schedule import best_so_far
from optuna_wnn.schedule import plan
from optuna_wnn.schedule import should_stop
from optuna_wnn.schedule import stalled_generations


def column(*values: float) -> NDArray[np.float64]:
    """Return the lowest loss of one objective after each generation."""
    return np.array(values, np.float64)[:, None]


losses = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


# -- the best so far -----------------------------------------------------------------------------


def test_the_best_so_far_never_rises_and_knows_each_objective_alone() -> None:
    lowest = np.array([[3.0, 1.0], [9.0, 9.0], [2.0, 7.0]])
    assert best_so_far(lowest).tolist() == [[3, 1], [3, 1], [2, 1]]


def test_a_generation_whose_trials_all_failed_changes_nothing() -> None:
    none = [np.inf, np.inf]
    found = best_so_far(np.array([none, [3.0, 1.0], none]))
    assert found.tolist() == [none, [3, 1], [3, 1]]


def test_no_generations_have_no_best() -> None:
    assert best_so_far(np.zeros((0, 2))).shape == (0, 2)


# -- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "stalled"),
    [
        ([], 0),
        ([5], 0),
        ([5, 4], 0),
        ([5, 5], 1),
        ([5, 4, 4, 4], 2),
        ([5, 4.9999, 4.9998], 2),
        ([0, -1e-9], 0),
        ([np.inf, 5, 5], 1),
        ([np.inf, np.inf], 1),
    ],
)
def test_generations_without_progress_are_counted(values: list[float], stalled: int) -> None:
    assert stalled_generations(column(*values), 0.001) == stalled


def test_slow_progress_adds_up() -> None:
    best = column(*(10 - 0.004 * i for i in range(30)))  # a step is 0.04 %, three are 0.12 %
    assert stalled_generations(best, 0.001) < 3


def test_progress_in_one_objective_is_progress() -> None:
    assert stalled_generations(np.array([[5, -0.1], [5, -0.2]]), 0.001) == 0


@given(losses, st.floats(0, 0.5))
def test_no_more_generations_stall_than_there_are_after_the_first(
    values: list[float], share: float
) -> None:
    best = best_so_far(np.array(values)[:, None])
    assert 0 <= stalled_generations(best, share) < len(best)


# -- early stopping ------------------------------------------------------------------------------


def test_without_patience_nothing_stops() -> None:
    assert not should_stop(column(*[5] * 100), EarlyStopping(patience=None))


@pytest.mark.parametrize(("patience", "at_least"), [(1, 0), (1, 5), (3, 0), (3, 2), (3, 9)])
def test_a_stuck_phase_has_its_patience_and_its_least_generations(
    patience: int, at_least: int
) -> None:
    rule = EarlyStopping(patience, at_least)
    stops = [should_stop(column(*[5] * n), rule) for n in range(1, 20)]
    # The first row is where the phase started from.
    assert stops.index(True) == max(patience, at_least)
    assert all(stops[stops.index(True) :])


def test_progress_starts_patience_anew() -> None:
    rule = EarlyStopping(patience=2, min_generations=0)
    assert not should_stop(column(5, 5, 4, 4), rule)
    assert should_stop(column(5, 5, 4, 4, 4), rule)


def test_scaling_has_its_chance_before_a_phase_stops() -> None:
    rule, scaling = EarlyStopping(1, 0), AdaptiveScaling(check_interval=2)
    stops = [should_stop(column(*[5] * n), rule, scaling) for n in range(1, 20)]
    first = stops.index(True) + 1
    critical = next(n for n in range(1, 20) if scaling.level(column(*[5] * n)) == Level.CRITICAL)
    assert first == critical + scaling.check_interval


@pytest.mark.parametrize(
    "fields", [{"patience": 0}, {"min_generations": -1}, {"min_improvement": -0.1}]
)
def test_numbers_out_of_range_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InputError):
        EarlyStopping(**fields)


# -- the accuracy bar ----------------------------------------------------------------------------


def test_the_bar_rises_to_its_end_and_stays() -> None:
    bar = Threshold(0.2, 0.6, ramp=4)
    assert [bar.bar(g) for g in (0, 2, 4, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert [bar.slack(g) for g in (0, 4)] == pytest.approx([0.4, 0])


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(1, 20), st.integers(0, 30))
def test_a_trial_that_meets_the_bar_of_its_generation_violates_nothing(
    bars: list[float], ramp: int, generation: int
) -> None:
    start, end, final = sorted(bars)
    bar = Threshold(start, end, final, ramp)
    constraint = bar.highest - bar.bar(generation)  # of a trial exactly at the bar
    assert constraint - bar.slack(generation) <= 0
    assert bar.bar(generation) <= bar.bar(generation + 1) + 1e-15


@pytest.mark.parametrize(
    "fields", [(0.5, 0.4), (-0.1, 0.4), (0.1, 1.1), (0.1, 0.4, 0.3), (0.1, 0.4, None, 0)]
)
def test_a_bar_that_does_not_rise_within_0_and_1_is_refused(fields: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="threshold"):
        Threshold(*fields)  # type: ignore[arg-type]


# -- adaptive scaling ----------------------------------------------------------------------------


def test_the_level_rises_with_every_check_without_progress() -> None:
    scaling = AdaptiveScaling(check_interval=2)
    levels = [scaling.level(column(*[5] * n)) for n in (1, 2, 3, 5, 7, 9)]
    assert levels == [0, 0, 1, 2, 3, 3]


def test_progress_brings_the_level_back() -> None:
    assert AdaptiveScaling(check_interval=1).level(column(5, 5, 5, 4)) == Level.HEALTHY


def test_population_and_mutation_grow_with_the_level() -> None:
    scaling = AdaptiveScaling(check_interval=1, population=(1.5, 2), mutation=(3, 8))
    plans = [plan(n, column(*[5] * n), 10, 0.2, None, scaling) for n in (1, 2, 3, 4)]
    assert [p.level for p in plans] == list(Level)
    assert [p.population for p in plans] == [10, 10, 15, 20]
    assert [p.mutation_rate for p in plans] == pytest.approx([0.2, 0.2, 0.6, 1.0])


def test_without_scaling_a_plan_is_the_base() -> None:
    found = plan(7, column(*[5] * 7), 10, 0.2, Threshold(0, 0.5, ramp=7), None)
    assert (found.level, found.population, found.mutation_rate) == (Level.HEALTHY, 10, 0.2)
    assert (found.threshold, found.slack) == (0.5, 0.0)


@pytest.mark.parametrize(
    "fields",
    [{"check_interval": 0}, {"patience": 0}, {"min_improvement": -1}, {"population": (0.9, 2)}],
)
def test_a_scaling_out_of_range_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match="scaling"):
        AdaptiveScaling(**fields)  # type: ignore[arg-type]
