"""Heads against brute force over the whole vocabulary."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_wnn.evaluators import heads


Case = tuple[NDArray[np.float64], NDArray[np.int64], int]


def result_of(
    log_odds: NDArray[np.float64], targets: NDArray[np.int64], n_outputs: int
) -> heads.HeadResult:
    """Return the result of the ``bits`` head from the log-odds of all bits."""
    n_bits = len(log_odds)
    terms = [
        heads.bit_terms(
            odds,
            (targets >> (n_bits - 1 - k)) & 1 == 1,
            heads.size_digit(n_bits, n_outputs, k),
        )
        for k, odds in enumerate(log_odds)
    ]
    return heads.bits_result(terms, targets, n_outputs)


def by_brute_force(p: NDArray[np.float64], target: int, n_outputs: int) -> tuple[float, float]:
    """Return the loss and the hit of one example, from the probability of every code."""
    n_bits = len(p)
    probability = {
        sum(bit << (n_bits - 1 - k) for k, bit in enumerate(bits)): np.prod(
            [q if bit else 1 - q for q, bit in zip(p, bits, strict=True)]
        )
        for bits in itertools.product((0, 1), repeat=n_bits)
    }
    known = {code: q for code, q in probability.items() if code < n_outputs}
    best = max(known.values())
    tied = [code for code, q in known.items() if np.isclose(q, best, rtol=1e-9, atol=0)]
    loss = -np.log(known[target] / sum(known.values()))
    return loss, (1 / len(tied) if target in tied else 0.0)


@st.composite
def bit_examples(draw: st.DrawFn) -> Case:
    """Draw P(bit = 1) per bit and example, targets, and the size of their vocabulary.

    Shares are coarse, so that ties are common.
    """
    n_outputs = draw(st.integers(1, 40))
    n_bits = max(1, (n_outputs - 1).bit_length())
    n_examples = draw(st.integers(1, 5))
    share = st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.75, 1.0])
    cells = draw(st.lists(share, min_size=n_bits * n_examples, max_size=n_bits * n_examples))
    target = st.integers(0, n_outputs - 1)
    targets = draw(st.lists(target, min_size=n_examples, max_size=n_examples))
    return np.reshape(cells, (n_bits, n_examples)), np.array(targets), n_outputs


@given(bit_examples())
def test_bits_are_renormalised_over_the_vocabulary(case: Case) -> None:
    p, targets, n_outputs = case
    result = result_of(heads.bit_log_odds(p, False), targets, n_outputs)
    clamped = np.clip(p, heads.LEAST_PROBABILITY, 1 - heads.LEAST_PROBABILITY)
    expected = [by_brute_force(clamped[:, e], t, n_outputs) for e, t in enumerate(targets)]
    losses, hits = np.array(expected).T
    assert result.cross_entropy == pytest.approx(losses.mean(), rel=1e-7, abs=1e-9)
    assert result.accuracy == pytest.approx(hits.mean(), abs=1e-12)


@given(bit_examples())
def test_bit_losses_sum_to_the_cross_entropy_of_a_full_vocabulary(case: Case) -> None:
    p, targets, _ = case
    result = result_of(heads.bit_log_odds(p, False), targets, 1 << len(p))
    assert result.bit_losses is not None
    assert result.bit_losses.sum() == pytest.approx(result.cross_entropy)


def test_a_bit_of_one_half_doubles_the_tie() -> None:
    log_odds = heads.bit_log_odds(np.array([[0.5], [0.9], [0.5]]), False)
    assert result_of(log_odds, np.array([0b111]), 8).accuracy == 0.25
    assert result_of(log_odds, np.array([0b101]), 8).accuracy == 0.0


def test_a_tie_counts_only_codes_of_the_vocabulary() -> None:
    log_odds = heads.bit_log_odds(np.array([[0.5], [0.9], [0.5]]), False)
    # Of 010, 011, 110 and 111 the last is no code below 7.
    assert result_of(log_odds, np.array([0b110]), 7).accuracy == pytest.approx(1 / 3)


def test_codes_that_deviate_at_different_bits_tie_whatever_the_order_of_sums() -> None:
    p = np.array([[0.7], [0.7], [0.9]])
    # 111 is no code below 7, so the best is 110, 101 and 011 by what they deviate by.
    assert result_of(heads.bit_log_odds(p, False), np.array([0b011]), 7).accuracy == 0.5
    assert result_of(heads.bit_log_odds(p, False), np.array([0b101]), 7).accuracy == 0.5
    assert result_of(heads.bit_log_odds(p, False), np.array([0b110]), 7).accuracy == 0.0


def test_a_bit_that_is_sure_and_wrong_costs_the_clamped_loss() -> None:
    result = result_of(heads.bit_log_odds(np.array([[0.0]]), False), np.array([1]), 2)
    assert result.cross_entropy == pytest.approx(-np.log(1e-7))


def test_log_odds_are_clamped_like_shares() -> None:
    sure = heads.bit_log_odds(np.array([[-900.0, 900.0]]), True)
    assert sure == pytest.approx(heads.bit_log_odds(np.array([[0.0, 1.0]]), False))


@given(
    st.integers(2, 6),
    st.integers(1, 9),
    st.floats(0.05, 20),
    st.integers(0, 2**32 - 1),
)
def test_classes_are_a_softmax_over_the_temperature(
    n_classes: int, n_examples: int, temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.integers(-3, 4, (n_classes, n_examples)) / 2
    targets = rng.integers(0, n_classes, n_examples)
    result = heads.classes_result(outputs, targets, temperature)
    p = np.exp(outputs / temperature)
    losses = -np.log(p[targets, np.arange(n_examples)] / p.sum(axis=0))
    tied = outputs == outputs.max(axis=0)
    hits = tied[targets, np.arange(n_examples)] / tied.sum(axis=0)
    assert result.cross_entropy == pytest.approx(losses.mean())
    assert result.accuracy == pytest.approx(hits.mean())
    assert result.bit_losses is None


def test_the_fitted_temperature_is_the_best_there_is() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(5, 4000)) * 2
    p = np.exp(truth) / np.exp(truth).sum(axis=0)
    targets = (rng.random(4000) < np.cumsum(p, axis=0)).argmax(axis=0)
    outputs = truth * 7  # calibrated at a temperature of 7
    fitted = heads.fit_temperature(outputs, targets)
    assert fitted == pytest.approx(7, rel=0.1)
    best = heads.classes_result(outputs, targets, fitted).cross_entropy
    for other in (0.9 * fitted, 1.1 * fitted, 1.0):
        assert best < heads.classes_result(outputs, targets, other).cross_entropy


def test_targets_of_clusters_are_bits_most_significant_first_or_classes() -> None:
    targets = np.array([0b110, 0b001])
    assert [heads.cluster_targets("bits", 3, targets, k).tolist() for k in range(3)] == [
        [1, 0],
        [1, 0],
        [0, 1],
    ]
    assert heads.cluster_targets("classes", 7, targets, 6).tolist() == [1, 0]


def test_the_fitted_temperature_stays_humble_where_all_examples_are_told_apart() -> None:
    targets = np.arange(200) % 4
    outputs = np.where(np.arange(4)[:, None] == targets, 1.0, 0.0)
    odds = np.exp(1 / heads.fit_temperature(outputs, targets))
    assert 1 / 400 < 3 / (odds + 3) < 1 / 100  # about one surprise in as many examples
