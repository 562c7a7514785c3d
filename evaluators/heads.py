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
BIT_HEADS: Final[tuple[Head, ...]] = ("bits", "chained_bits")  # each output has its own loss

_COST_SCALE: Final = 2.0**32  # log-probabilities are compared as integers: ties are exact
_RUN: Final = 8192  # examples at a time, so that what is computed stays in the cache
_GOLDEN: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class HeadResult:
    """What a head makes of outputs.

    Attributes:
        cross_entropy: Nats per example.
        accuracy: Share of examples whose arg-max is the target; of ties the target's share.
        bit_losses: Mean loss of each bit, ``float64[U]``, where outputs are bits.
    """

    cross_entropy: float
    accuracy: float
    bit_losses: NDArray[np.float64] | None = None


def cluster_targets(
    head: Head, n_head_outputs: int, targets: NDArray[np.int64], output: int
) -> NDArray[np.uint8]:
    """Return which examples are positive ones of the clusters of an output, ``uint8[E]``.

    Args:
        head: The head.
        n_head_outputs: ``U``, how many outputs it has.
        targets: ``int64[E]``.
        output: Which of its outputs.
    """
    if head in ("classes", "tokens"):
        positive: NDArray[np.bool_] = targets == output
        return positive.astype(np.uint8)
    bits: NDArray[np.int64] = targets >> (n_head_outputs - 1 - output)
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
class Doubt:
    """What one bit adds where some codes are none of the vocabulary, per example.

    Attributes:
        log_odds: Of being 1, clamped, ``float64[E]``.
        side: Whether 1 is the more probable side, ``bool[E]``.
        per_zero: One over the probability that it is 0, ``float64[E]``.
        per_one: The same of 1; empty where the size of the vocabulary has a 0 at this bit.
    """

    log_odds: NDArray[np.float64]
    side: NDArray[np.bool_]
    per_zero: NDArray[np.float64]
    per_one: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        arrays = (self.log_odds, self.side, self.per_zero, self.per_one)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, eq=False)
class BitTerms:
    """What one bit adds to the ``bits`` head, per example; it depends on its own clusters alone.

    Attributes:
        losses: Its loss, ``float64[E]``.
        loss: Their sum.
        right: Whether the target's side of it is the more probable, or as probable as the other.
        alike: Whether both sides are as probable, to 2**-32 nats; ``bool[E]`` as ``right``.
        doubt: ``None`` where the vocabulary is whole.
    """

    losses: NDArray[np.float64]
    loss: float
    right: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    doubt: Doubt | None

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        own = sum(array.nbytes for array in (self.losses, self.right, self.alike))
        return own + (self.doubt.nbytes if self.doubt else 0)


def size_digit(n_bits: int, n_outputs: int, k: int) -> int | None:
    """Return bit ``k`` of ``n_outputs``; ``None`` where all codes are of the vocabulary."""
    return None if n_outputs == 1 << n_bits else n_outputs >> (n_bits - 1 - k) & 1


def bit_terms(
    log_odds: NDArray[np.float64], is_one: NDArray[np.bool_], digit: int | None
) -> BitTerms:
    """Return what a bit adds to the result.

    Args:
        log_odds: Of being 1, ``float64[E]``, clamped.
        is_one: Whether it is 1 in the target, ``bool[E]``.
        digit: See :func:`size_digit`.
    """
    n_examples = len(log_odds)
    losses = np.empty(n_examples)
    alike, right = np.empty(n_examples, bool), np.empty(n_examples, bool)
    doubt = None
    if digit is not None:
        per_zero, per_one = np.empty(n_examples), np.empty(n_examples if digit else 0)
        doubt = Doubt(log_odds, log_odds > 0, per_zero, per_one)
    for first in range(0, n_examples, _RUN):
        run = slice(first, first + _RUN)
        odds, one = log_odds[run], is_one[run]
        costs, side, size = _costs(odds), odds > 0, np.abs(odds)
        small = np.exp(-size)
        losses[run] = np.where(one, -odds, odds).clip(0) + np.log1p(small)
        alike[run] = costs == 0
        right[run] = alike[run] | (one == side)
        if doubt is not None:
            large = np.exp(size)
            doubt.per_zero[run] = 1 + np.where(side, large, small)
            if digit:
                doubt.per_one[run] = 1 + np.where(side, small, large)
    return BitTerms(losses, float(losses.sum()), right, alike, doubt)


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
    n_examples = len(targets)
    doubts = [term.doubt for term in terms if term.doubt is not None]
    cross_entropy, right = np.empty(n_examples), np.empty(n_examples, bool)
    # Where the best code of all is none of the vocabulary, or not alone, there is more to do.
    unsure = np.zeros(n_examples, bool)
    for first in range(0, n_examples, _RUN):
        run = slice(first, first + _RUN)
        losses, all_right = cross_entropy[run], right[run]
        losses[:], all_right[:] = terms[0].losses[run], terms[0].right[run]
        for term in terms[1:]:
            losses += term.losses[run]
            all_right &= term.right[run]
        for term in terms:
            unsure[run] |= term.alike[run]
        if doubts:
            losses += np.log(_mass_below(doubts, run, n_outputs))
            unsure[run] |= _best_of_all(doubts, run) >= n_outputs
    hits = right.astype(np.float64)
    rest = np.flatnonzero(unsure)
    if doubts:
        hits[rest] = _hits_below(doubts, rest, targets[rest], n_outputs)
    else:
        alike = np.add.reduce([term.alike[rest] for term in terms], dtype=np.int32)
        hits[rest] *= np.ldexp(1.0, -alike)
    bit_losses = np.array([term.loss for term in terms]) / n_examples
    return HeadResult(float(cross_entropy.mean()), float(hits.mean()), bit_losses)


def _hits_below(
    doubts: Sequence[Doubt], which: NDArray[np.int64], targets: NDArray[np.int64], n_outputs: int
) -> NDArray[np.float64]:
    """Return how much some examples count as hit where not every code is of the vocabulary."""
    n_bits = len(doubts)
    positions = n_bits - 1 - np.arange(n_bits)
    is_one = ((targets >> positions[:, None]) & 1).astype(bool)
    costs = _costs(np.stack([doubt.log_odds[which] for doubt in doubts]))
    side = np.stack([doubt.side[which] for doubt in doubts])
    target_cost = np.where(is_one != side, costs, 0).sum(axis=0)
    free = np.cumsum((costs == 0)[::-1], axis=0)[::-1]  # from bit k on, how many are alike
    least, tied = _best_below(side, costs, free, n_outputs)
    return np.where(target_cost == least, 1 / tied, 0.0)


def _mass_below(doubts: Sequence[Doubt], run: slice, n_outputs: int) -> NDArray[np.float64]:
    """Return the probability that the code is below ``n_outputs``, of a run of examples."""
    mass = np.zeros(len(doubts[0].side[run]))
    prefix = np.ones(len(mass))  # P(the bits so far are those of n_outputs)
    for k, doubt in enumerate(doubts):
        rest = n_outputs & ((2 << (len(doubts) - 1 - k)) - 1)
        if not rest:
            break  # no code that agrees so far is smaller
        if rest >> (len(doubts) - 1 - k):
            mass += prefix / doubt.per_zero[run]
            prefix /= doubt.per_one[run]
        else:
            prefix /= doubt.per_zero[run]
    return mass


def _best_of_all(doubts: Sequence[Doubt], run: slice) -> NDArray[np.int64]:
    """Return the most probable code of a run of examples, of the vocabulary or not."""
    return codes_of([doubt.side[run] for doubt in doubts])


def codes_of(bits: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Return the codes ``int64[E]`` of bits, ``K`` times ``bool[E]``, most significant first."""
    codes = np.zeros(len(bits[0]), np.int64)
    for first in range(0, len(bits), 8):  # a byte at a time: bytes are quick
        some = bits[first : first + 8]
        octet = np.zeros(len(codes), np.uint8)
        for bit in some:
            octet += octet
            octet += bit.view(np.uint8)
        codes = (codes << len(some)) + octet
    return codes


def _best_below(
    side: NDArray[np.bool_],
    costs: NDArray[np.int64],
    free: NDArray[np.int64],
    n_outputs: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the least cost of a code below ``n_outputs``, and how many codes have it."""
    n_bits, n_examples = side.shape
    least = np.full(n_examples, np.iinfo(np.int64).max)
    tied = np.zeros(n_examples)
    prefix = np.zeros(n_examples, np.int64)  # cost of the bits so far being those of n_outputs
    for k in range(n_bits):
        cost_of_zero = np.where(side[k], costs[k], 0)
        if n_outputs >> (n_bits - 1 - k) & 1:
            branch = prefix + cost_of_zero
            alike = free[k + 1] if k + 1 < n_bits else np.zeros(n_examples)
            codes = np.exp2(alike.astype(np.float64))
            tied = np.where(branch < least, codes, np.where(branch == least, tied + codes, tied))
            least = np.minimum(branch, least)
            prefix = prefix + np.where(side[k], 0, costs[k])
        else:
            prefix = prefix + cost_of_zero
    return least, tied


def classes_result(
    outputs: NDArray[np.float64], targets: NDArray[np.int64], temperature: float
) -> HeadResult:
    """Return the result of the ``classes`` head: softmax of the outputs over the temperature.

    Args:
        outputs: ``float64[U, E]``.
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
