"""From what clusters put out to cross-entropy and accuracy, in float64 on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.tasks.base import Head


LEAST_PROBABILITY: Final = 1e-7
LOG_ODDS_LIMIT: Final = float(np.log((1 - LEAST_PROBABILITY) / LEAST_PROBABILITY))
HEADS: Final[tuple[Head, ...]] = ("bits", "chained_bits", "classes", "tokens")
BIT_HEADS: Final[tuple[Head, ...]] = ("bits", "chained_bits")  # each cluster has its own loss

_COST_SCALE: Final = 2.0**32  # log-probabilities are compared as integers: ties are exact
_CHUNK: Final = 2048  # examples at a time, so that what is computed stays in the cache
_RUN: Final = 8192  # the same of one bit
_GOLDEN: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class HeadResult:
    """What a head makes of outputs.

    Attributes:
        cross_entropy: Nats per example.
        accuracy: Share of examples whose arg-max is the target; of ties the target's share.
        cluster_losses: Mean loss of each bit, ``float64[K]``, where clusters are bits.
    """

    cross_entropy: float
    accuracy: float
    cluster_losses: NDArray[np.float64] | None = None


def cluster_targets(
    head: Head, n_clusters: int, targets: NDArray[np.int64], cluster: int
) -> NDArray[np.uint8]:
    """Return for every example whether it is a positive one of ``cluster``, ``uint8[E]``."""
    if head in ("classes", "tokens"):
        positive: NDArray[np.bool_] = targets == cluster
        return positive.astype(np.uint8)
    bits: NDArray[np.int64] = targets >> (n_clusters - 1 - cluster)
    return (bits & 1).astype(np.uint8)


def bit_log_odds(outputs: NDArray[np.float64], are_log_odds: bool) -> NDArray[np.float64]:
    """Return the log-odds that each bit is 1, with P(bit) kept in [1e-7, 1 - 1e-7]."""
    if are_log_odds:
        return np.clip(outputs, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    p = np.clip(outputs, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(p / (1 - p))


def softplus(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``log(1 + exp(x))``."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@dataclass(frozen=True, eq=False)
class BitTerms:
    """What one bit adds to the ``bits`` head, per example; it depends on its own cluster alone.

    Attributes:
        losses: Its loss, ``float64[E]``.
        loss: Their sum.
        right: Whether the target's side of it is the more probable, or as probable as the other.
        alike: Whether both sides are as probable, to 2**-32 nats; ``bool[E]`` as ``right``.
        log_odds: Of being 1, clamped, ``float64[E]``; empty where the vocabulary is whole.
    """

    losses: NDArray[np.float64]
    loss: float
    right: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    log_odds: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        arrays = (self.losses, self.right, self.alike, self.log_odds)
        return sum(array.nbytes for array in arrays)


def is_whole(n_bits: int, n_outputs: int) -> bool:
    """Return whether every code of ``n_bits`` bits is one of the vocabulary."""
    return n_outputs == 1 << n_bits


def bit_terms(log_odds: NDArray[np.float64], is_one: NDArray[np.bool_], whole: bool) -> BitTerms:
    """Return what a bit adds to the result.

    Args:
        log_odds: Of being 1, ``float64[E]``, clamped.
        is_one: Whether it is 1 in the target, ``bool[E]``.
        whole: See :func:`is_whole`.
    """
    n_examples = len(log_odds)
    losses = np.empty(n_examples)
    alike, right = np.empty(n_examples, bool), np.empty(n_examples, bool)
    for first in range(0, n_examples, _RUN):
        run = slice(first, first + _RUN)
        odds, one = log_odds[run], is_one[run]
        losses[run] = softplus(np.where(one, -odds, odds))
        alike[run] = _costs(odds) == 0
        right[run] = alike[run] | (one == (odds > 0))
    kept = np.zeros(0) if whole else log_odds
    return BitTerms(losses, float(losses.sum()), right, alike, kept)


def _costs(log_odds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return what it costs to take the less probable side of a bit; 0 where both are alike."""
    return np.rint(np.abs(log_odds) * _COST_SCALE).astype(np.int64)


def bits_result(
    terms: Sequence[BitTerms], targets: NDArray[np.int64], n_outputs: int
) -> HeadResult:
    """Return the result of the ``bits`` head: a code's probability is that of all its bits.

    Probabilities are renormalised over the codes below ``n_outputs``. A code below it agrees
    with ``n_outputs`` up to some bit that is 1 there and 0 in the code, and is free after it: so
    the sum over these codes, and the arg-max among them, take one step per bit.

    Args:
        terms: What bit ``k`` (most significant first) adds.
        targets: ``int64[E]``, each below ``n_outputs``.
        n_outputs: The size of the vocabulary, in ``(2**(K-1), 2**K]``.
    """
    n_examples, n_bits = len(targets), len(terms)
    cross_entropy, hits = np.empty(n_examples), np.empty(n_examples)
    for first in range(0, n_examples, _CHUNK):
        run = slice(first, first + _CHUNK)
        losses = terms[0].losses[run].copy()
        for term in terms[1:]:
            losses += term.losses[run]
        if is_whole(n_bits, n_outputs):
            right = np.logical_and.reduce([term.right[run] for term in terms])
            alike = np.add.reduce([term.alike[run] for term in terms], dtype=np.int32)
            hits[run] = np.where(right, np.ldexp(1.0, -alike), 0.0)
        else:
            log_odds = np.stack([term.log_odds[run] for term in terms])
            losses += np.log(_mass_below(log_odds, n_outputs))
            right = np.logical_and.reduce([term.right[run] for term in terms])
            alike = np.logical_or.reduce([term.alike[run] for term in terms])
            best = np.zeros(len(losses), np.int64)  # the most probable code of all
            for odds in log_odds:
                best += best + (odds > 0)
            hits[run] = right
            # Only where it is no code of the vocabulary, or not alone, is there more to do.
            rest = np.flatnonzero(alike | (best >= n_outputs))
            if len(rest):
                hits[first + rest] = _hits_below(
                    log_odds[:, rest], targets[first + rest], n_outputs
                )
        cross_entropy[run] = losses
    cluster_losses = np.array([term.loss for term in terms]) / n_examples
    return HeadResult(float(cross_entropy.mean()), float(hits.mean()), cluster_losses)


def _hits_below(
    log_odds: NDArray[np.float64], targets: NDArray[np.int64], n_outputs: int
) -> NDArray[np.float64]:
    """Return how much each example counts as hit where not every code is of the vocabulary."""
    n_bits = len(log_odds)
    positions = n_bits - 1 - np.arange(n_bits)
    is_one = ((targets >> positions[:, None]) & 1).astype(bool)
    costs = _costs(log_odds)
    target_cost = np.where(is_one != (log_odds > 0), costs, 0).sum(axis=0)
    free = np.cumsum((costs == 0)[::-1], axis=0)[::-1]  # from bit k on, how many are alike
    least, tied = _best_below(log_odds, costs, free, n_outputs)
    return np.where(target_cost == least, 1 / tied, 0.0)


def _mass_below(log_odds: NDArray[np.float64], n_outputs: int) -> NDArray[np.float64]:
    """Return the probability that the code is below ``n_outputs``, ``float64[E]``."""
    mass = np.zeros(log_odds.shape[1])
    prefix = np.ones(log_odds.shape[1])  # P(the bits so far are those of n_outputs)
    for k, odds in enumerate(log_odds):
        if n_outputs >> (len(log_odds) - 1 - k) & 1:
            mass += prefix / (1 + np.exp(odds))
            prefix = prefix / (1 + np.exp(-odds))
        else:
            prefix = prefix / (1 + np.exp(odds))
    return mass


def _best_below(
    log_odds: NDArray[np.float64],
    costs: NDArray[np.int64],
    free: NDArray[np.int64],
    n_outputs: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the least cost of a code below ``n_outputs``, and how many codes have it."""
    n_bits, n_examples = log_odds.shape
    least = np.full(n_examples, np.iinfo(np.int64).max)
    tied = np.zeros(n_examples)
    prefix = np.zeros(n_examples, np.int64)  # cost of the bits so far being those of n_outputs
    for k in range(n_bits):
        cost_of_zero = np.where(log_odds[k] > 0, costs[k], 0)
        if n_outputs >> (n_bits - 1 - k) & 1:
            branch = prefix + cost_of_zero
            alike = free[k + 1] if k + 1 < n_bits else np.zeros(n_examples)
            codes = np.exp2(alike.astype(np.float64))
            tied = np.where(branch < least, codes, np.where(branch == least, tied + codes, tied))
            least = np.minimum(branch, least)
            prefix = prefix + np.where(log_odds[k] > 0, 0, costs[k])
        else:
            prefix = prefix + cost_of_zero
    return least, tied


def classes_result(
    outputs: NDArray[np.float64], targets: NDArray[np.int64], temperature: float
) -> HeadResult:
    """Return the result of the ``classes`` head: softmax of the outputs over the temperature.

    Args:
        outputs: ``float64[K, E]``.
        targets: ``int64[E]``.
        temperature: Above 0; the arg-max does not depend on it.
    """
    of_target = outputs[targets, np.arange(len(targets))]
    top = outputs.max(axis=0)
    tied = (outputs == top).sum(axis=0)
    accuracy = np.where(of_target == top, 1 / tied, 0.0).mean()
    return HeadResult(_classes_loss(outputs, of_target, top, 1 / temperature), float(accuracy))


def _classes_loss(
    outputs: NDArray[np.float64],
    of_target: NDArray[np.float64],
    top: NDArray[np.float64],
    sharpness: float,
) -> float:
    mass = np.exp((outputs - top) * sharpness).sum(axis=0)
    return float((np.log(mass) + (top - of_target) * sharpness).mean())


def fit_temperature(outputs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the temperature in [2**-10, 2**10] that gives the least cross-entropy.

    The loss is convex in 1 / temperature: golden-section search over its logarithm finds the
    minimum, always in the same 24 steps. Where all examples are told apart, ever lower
    temperatures would be ever better, and one surprise among other examples would cost
    everything; so it is fitted as if one of the examples were labelled at random (label
    smoothing: Szegedy et al., "Rethinking the inception architecture", CVPR 2016).
    """
    of_target = outputs[targets, np.arange(len(targets))]
    of_target = of_target + (outputs.mean(axis=0) - of_target) / len(targets)
    top = outputs.max(axis=0)

    def loss(exponent: float) -> float:
        return _classes_loss(outputs, of_target, top, 2.0**exponent)

    low, high = -10.0, 10.0
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(24):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return float(2.0 ** -((low + high) / 2))
