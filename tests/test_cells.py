"""What a cell holds and votes, worked out by hand for every memory mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import NUMERATOR_SCALE
from optuna_wnn.evaluators.cells import WEIGHT_SCALE
from optuna_wnn.evaluators.cells import level
from optuna_wnn.evaluators.cells import make_cells
from optuna_wnn.evaluators.cells import pack
from optuna_wnn.evaluators.cells import sampled
from optuna_wnn.evaluators.cells import share_vote
from optuna_wnn.evaluators.cells import unpack
from optuna_wnn.evaluators.plain import neuron_votes
from optuna_wnn.evaluators.plain import number_cells
from optuna_wnn.memory import MemoryMode
from optuna_wnn.memory import MemorySettings


def votes(
    memory: MemorySettings,
    trained: str,
    read: str = "abc",
    blocks: NDArray[np.int64] | None = None,
) -> list[int]:
    """Return the votes of cells after training ``trained``.

    Cells are named ``a`` to ``z``; ``"a+ b-"`` trains cell a with a positive example, then cell b
    with a negative one.
    """
    steps = trained.split()
    cells = make_cells(memory, "bits", 2, max(len(steps), 1))
    found: list[int] = neuron_votes(
        cells,
        np.array([ord(step[0]) - ord("a") for step in steps], np.int64),
        np.array([step[1] == "+" for step in steps], np.uint8),
        np.ones(len(steps), bool),
        np.array([ord(cell) - ord("a") for cell in read], np.int64),
        blocks,
    ).tolist()
    return found


def test_wisard_is_true_where_any_positive_came_and_empty_where_nothing_did() -> None:
    memory = MemorySettings(mode="wisard", vote="mean", empty_value=0.25)
    assert votes(memory, "a+ a- a- b-") == [256, 0, 64]


def test_ternary_follows_the_majority_and_a_tie_is_empty() -> None:
    memory = MemorySettings(mode="ternary", vote="mean", empty_value=0.5)
    assert votes(memory, "a+ a+ a- b+ b- c-") == [256, 128, 0]
    assert votes(memory, "a+", "abc") == [256, 128, 128]


def test_quad_binary_starts_below_the_middle_and_one_positive_lifts_it() -> None:
    memory = MemorySettings(mode="quad_binary", vote="mean")
    assert votes(memory, "a+ b-") == [1, 0, 0]


def test_quad_weighted_votes_by_the_counter() -> None:
    memory = MemorySettings(mode="quad_weighted", vote="mean")
    assert votes(memory, "a+ b+ b+ c-", "abcd") == [3, 4, 0, 1]


def test_quad_counters_saturate() -> None:
    memory = MemorySettings(mode="quad_weighted", vote="mean")
    assert votes(memory, "a+ a+ a+ a+ a+ a- b- b- b- b- b+") == [3, 1, 1]


def test_quad_counters_depend_on_the_order_of_examples() -> None:
    memory = MemorySettings(mode="quad_weighted", vote="mean")
    assert votes(memory, "a- a- a+ a+", "a") == [3]
    assert votes(memory, "a+ a+ a- a-", "a") == [1]


def test_frequency_votes_the_share_of_positives_with_half_an_example_of_each() -> None:
    memory = MemorySettings(mode="frequency", vote="mean")
    # (2 + 1/2) / 4, (0 + 1/2) / 2 and (0 + 1/2) / 1, times 256
    assert votes(memory, "a+ a+ a- b-") == [160, 64, 128]


@pytest.mark.parametrize(
    ("mode", "empty", "expected"),
    [
        # a loses one of its two positives, its negative, and c its only example
        ("frequency", 0.0, [128, 128, 213, 128]),
        ("ternary", 0.5, [128, 128, 256, 128]),
    ],
)
def test_leave_one_out_takes_an_example_out_of_its_own_cell(
    mode: MemoryMode, empty: float, expected: list[int]
) -> None:
    memory = MemorySettings(mode=mode, vote="mean", empty_value=empty)
    trained = "a+ a+ a- c+"
    assert votes(memory, trained, "aaac", np.arange(5)) == expected


def test_leave_block_out_takes_the_whole_block_out() -> None:
    memory = MemorySettings(mode="frequency", vote="mean")
    # Blocks of two: the first two read nothing, the others what the first two wrote.
    assert votes(memory, "a+ a+ a- a-", "aaaa", np.array([0, 2, 4])) == [43, 43, 213, 213]


def test_log_odds_of_an_unseen_cell_are_those_of_the_prior() -> None:
    memory = MemorySettings(vote="log_odds", prior=1.0)
    of_bits = make_cells(memory, "bits", 2**10, 100)
    of_classes = make_cells(memory, "classes", 10, 100)
    zero = np.zeros(1, np.int64)
    assert of_bits.of_counts(zero, zero) == 0
    assert of_classes.of_counts(zero, zero) == round(np.log(1 / 9) * of_classes.scale)


def test_confidence_of_an_unseen_cell_weighs_nothing() -> None:
    cells = make_cells(MemorySettings(), "bits", 2, 100)
    assert cells.of_counts(np.zeros(1, np.int64), np.zeros(1, np.int64)) == 0


def test_confidence_weighs_log_odds_by_how_often_and_how_surely() -> None:
    cells = make_cells(MemorySettings(prior=0.8), "bits", 2, 100)
    numerator, weight = unpack(cells.of_counts(np.array([3]), np.array([4])))
    p = 3.4 / 4.8
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    expected = 4 / 5 * (0.02 + 1 - entropy)
    assert weight[0] == round(expected * WEIGHT_SCALE)
    assert numerator[0] == round(expected * np.log(p / (1 - p)) * NUMERATOR_SCALE)


def test_outputs_are_means_or_weighed_means() -> None:
    neurons = np.array([2])
    share = make_cells(MemorySettings(vote="mean"), "bits", 2, 9)
    assert share.outputs(np.array([[128 + 256]]), neurons) == 0.75
    confident = make_cells(MemorySettings(), "bits", 2, 9)
    sums = pack(np.array([[3 * NUMERATOR_SCALE, 0]]), np.array([[2 * WEIGHT_SCALE, 0]]))
    assert confident.outputs(sums, neurons).tolist() == [[1.5, 0.0]]


@given(st.integers(0, 2**40))
def test_levels_are_the_count_or_its_four_leading_bits(count: int) -> None:
    shift = max(0, count.bit_length() - 4)
    assert level(np.array([count]))[0] == 8 * shift + (count >> shift)


@given(st.integers(0, 2**20))
def test_levels_ascend_without_a_gap(count: int) -> None:
    here, following = level(np.array([count, count + 1]))
    assert following - here in (0, 1)


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_shares_are_rounded_to_the_nearest(positives: int, negatives: int) -> None:
    seen = positives + negatives
    vote = share_vote(np.array([positives]), np.array([seen]))[0]
    assert abs(vote - 256 * (positives + 0.5) / (seen + 1)) <= 0.5 + 1e-6


@given(
    st.lists(st.tuples(st.integers(-32767, 32767), st.integers(0, 20000)), min_size=1, max_size=9)
)
def test_sums_of_packed_votes_are_packed_sums(pairs: list[tuple[int, int]]) -> None:
    numerators, weights = np.array(pairs, np.int64).T
    total = pack(numerators, weights).sum(keepdims=True)
    assert [int(part[0]) for part in unpack(total)] == [numerators.sum(), weights.sum()]


@given(st.integers(0, 2**64 - 1), st.integers(-5, 2**40))
def test_all_votes_of_one_neuron_fit_sixteen_bits(prior_bits: int, count: int) -> None:
    memory = MemorySettings(prior=1e-6 + prior_bits / 2**60)
    for vote in ("log_odds", "confidence"):
        cells = make_cells(
            MemorySettings(vote=vote, prior=memory.prior), "bits", 2, max(count, 1) % 2**31 + 1
        )
        parts = unpack(cells.table) if cells.packed else (cells.table,)
        assert all(np.abs(part).max() < 1 << 15 for part in parts)


def test_sampling_keeps_about_the_share_asked_for_and_goes_by_the_key() -> None:
    kept = sampled(np.uint64(12345), 20_000, 0.3)
    assert abs(kept.mean() - 0.3) < 0.02
    assert np.array_equal(kept[:100], sampled(np.uint64(12345), 100, 0.3))
    assert not np.array_equal(kept, sampled(np.uint64(12346), 20_000, 0.3))


@given(st.integers(1, 100), st.integers(0, 9))
def test_cells_are_numbered_alike_exactly_where_rows_are_alike(width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 2, (12, width)).astype(np.uint8)
    rows[6:] = rows[:6]
    numbers = number_cells(rows)
    alike = (rows[:, None] == rows[None]).all(axis=2)
    assert np.array_equal(alike, numbers[:, None] == numbers[None])
