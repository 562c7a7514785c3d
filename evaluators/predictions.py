"""From what clusters put out to the probability of every outcome, and to the most probable one.

These are the probabilities that :mod:`~optuna_wnn.evaluators.heads` and
:mod:`~optuna_wnn.evaluators.chained` score: minus the logarithm of the target's, averaged over
examples, is the cross-entropy of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.chained import decided
from optuna_wnn.evaluators.heads import codes_of
from optuna_wnn.evaluators.heads import softplus


_COST_SCALE: Final = 2.0**32  # log-probabilities are compared as integers, as heads do


def class_log_probabilities(
    outputs: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Return the log-probabilities of classes or tokens, ``float64[E, K]``.

    Args:
        outputs: ``float64[K, E]``.
        temperature: What they are divided by.
    """
    scaled = _scaled(outputs, temperature)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def class_probabilities(outputs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the probabilities of classes or tokens, of the same arguments."""
    scaled = _scaled(outputs, temperature)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _scaled(outputs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return outputs over the temperature, less the highest of each example, ``float64[E, K]``."""
    scaled = np.ascontiguousarray((outputs - outputs.max(axis=0)).T)
    scaled *= 1 / temperature
    return scaled


def bit_log_probabilities(log_odds: NDArray[np.float64], n_outputs: int) -> NDArray[np.float64]:
    """Return the log-probabilities of all codes under the ``bits`` head, ``float64[E, V]``.

    Args:
        log_odds: That each bit is 1, most significant first, ``float64[K, E]``.
        n_outputs: ``V``; the codes below it share all probability.
    """
    n_bits = len(log_odds)
    found = np.zeros((log_odds.shape[1], 1))
    for k, odds in enumerate(log_odds):
        zero, one = -softplus(odds), -softplus(-odds)
        found = _with_bit(found, zero[:, None], one[:, None], n_bits, k, n_outputs)
    if n_outputs < 1 << n_bits:
        top = found.max(axis=1, keepdims=True)
        found -= top + np.log(np.exp(found - top).sum(axis=1, keepdims=True))
    return found


def chained_log_probabilities(
    log_odds_after: Callable[[int, int], NDArray[np.float64]],
    n_examples: int,
    n_bits: int,
    n_outputs: int,
) -> NDArray[np.float64]:
    """Return the log-probabilities of all codes under ``chained_bits``, ``float64[E, V]``.

    Args:
        log_odds_after: Given a bit ``k`` and a number ``P``, the log-odds that it is 1 after each
            of the prefixes 0 to ``P - 1``, ``float64[E, P]``.
        n_examples: ``E``.
        n_bits: ``K``.
        n_outputs: ``V``.
    """
    found = np.zeros((n_examples, 1))
    for k in range(n_bits):
        n_prefixes = found.shape[1]
        odds = log_odds_after(k, n_prefixes)
        zero, one = -softplus(odds), -softplus(-odds)
        nothing = decided(np.arange(n_prefixes), n_bits, n_outputs, k)
        zero[:, nothing] = 0.0
        found = _with_bit(found, zero, one, n_bits, k, n_outputs)
    return found


def _with_bit(
    found: NDArray[np.float64],
    zero: NDArray[np.float64],
    one: NDArray[np.float64],
    n_bits: int,
    k: int,
    n_outputs: int,
) -> NDArray[np.float64]:
    """Return the log-probabilities of prefixes with bit ``k`` that some code begins with."""
    both = np.stack([found + zero, found + one], axis=2).reshape(len(found), 2 * found.shape[1])
    return both[:, : ((n_outputs - 1) >> (n_bits - 1 - k)) + 1]


def most_probable_codes(log_odds: NDArray[np.float64], n_outputs: int) -> NDArray[np.int64]:
    """Return the most probable code under the ``bits`` head; of several the lowest.

    Takes a step per bit, whatever the size of the vocabulary.

    Args:
        log_odds: That each bit is 1, most significant first, ``float64[K, E]``.
        n_outputs: Codes are below this.
    """
    n_bits, n_examples = log_odds.shape
    if n_outputs == 1 << n_bits:
        return codes_of([*(log_odds > 0)])
    costs = np.rint(np.abs(log_odds) * _COST_SCALE).astype(np.int64)
    sides = (log_odds > 0).astype(np.int64)
    tails = np.zeros((n_bits + 1, n_examples), np.int64)  # the best bits from k on
    for k in range(n_bits - 1, -1, -1):
        tails[k] = tails[k + 1] + (sides[k] << (n_bits - 1 - k))
    best = np.zeros(n_examples, np.int64)
    least = np.full(n_examples, np.iinfo(np.int64).max)
    cost = np.zeros(n_examples, np.int64)  # of the bits so far being those of n_outputs
    for k in range(n_bits):
        of_zero = np.where(sides[k] == 1, costs[k], 0)
        if n_outputs >> (n_bits - 1 - k) & 1:
            branch = cost + of_zero  # codes that are n_outputs so far, and smaller here
            code = (n_outputs >> (n_bits - k) << (n_bits - k)) + tails[k + 1]
            lower = (branch < least) | ((branch == least) & (code < best))
            best, least = np.where(lower, code, best), np.where(lower, branch, least)
            cost = cost + np.where(sides[k] == 1, 0, costs[k])
        else:
            cost = cost + of_zero
    return best


def drawn(log_weights: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Return an index drawn with probabilities in proportion to ``exp(log_weights)``."""
    # The Gumbel-max trick (Gumbel, "Statistical theory of extreme values", 1954, section 4).
    return int((log_weights + rng.gumbel(size=len(log_weights))).argmax())


def drawn_code(log_odds: NDArray[np.float64], n_outputs: int, rng: np.random.Generator) -> int:
    """Return a code below ``n_outputs`` drawn by its probability under the ``bits`` head.

    Args:
        log_odds: That each bit is 1, most significant first, ``float64[K]``.
        n_outputs: ``V``; a step per bit, whatever its size.
        rng: Source of randomness; ``K`` draws are made.
    """
    n_bits = len(log_odds)
    log_zero, log_one = -softplus(log_odds), -softplus(-log_odds)
    digits = [n_outputs >> (n_bits - 1 - k) & 1 for k in range(n_bits)]
    # What the bits from k on weigh, in all, if those before are the digits of n_outputs.
    below = np.full(n_bits + 1, -np.inf)
    for k in range(n_bits - 1, -1, -1):
        if digits[k]:
            below[k] = np.logaddexp(log_zero[k], log_one[k] + below[k + 1])
        else:
            below[k] = log_zero[k] + below[k + 1]
    code, tight = 0, n_outputs < 1 << n_bits
    for k, draw in enumerate(-rng.exponential(size=n_bits)):  # logarithms of uniform draws
        log_p = log_one[k]
        if tight:
            log_p = log_p + below[k + 1] - below[k] if digits[k] else -np.inf
        bit = int(draw < log_p)
        code, tight = 2 * code + bit, tight and bit == digits[k]
    return code


def drawn_chain(
    log_odds_after: Callable[[int, int], float],
    n_bits: int,
    n_outputs: int,
    temperature: float,
    rng: np.random.Generator,
) -> int:
    """Return a code drawn bit by bit under ``chained_bits``.

    Args:
        log_odds_after: Given a bit ``k`` and those before it as a number, the log-odds of a 1.
        n_bits: ``K``.
        n_outputs: ``V``.
        temperature: What log-odds are divided by; 0 takes the more probable side.
        rng: Source of randomness; ``K`` draws are made.
    """
    code = 0
    for k, draw in enumerate(rng.logistic(size=n_bits)):  # below x as often as expit(x) says
        bit = 0
        if not decided(np.array([code]), n_bits, n_outputs, k)[0]:
            odds = log_odds_after(k, code)
            bit = int(odds > 0 if not temperature else draw < odds / temperature)
        code = 2 * code + bit
    return code
