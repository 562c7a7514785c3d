"""Kneser-Ney models of sequences: what a text costs that is predicted from one or two tokens.

The plain form, with one discount per order, interpolated (S. F. Chen and J. Goodman, "An empirical
study of smoothing techniques for language modeling", Computer Speech & Language 13, 1999, section
2.7; R. Kneser and H. Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995):

    p(w | h) = max(c(h w) - D, 0) / c(h) + D * N(h) / c(h) * p(w | h')

``c`` counts how often ``w`` follows the tokens ``h`` in the training text, ``N(h)`` how many
different tokens do, and ``h'`` is ``h`` without its oldest token. In the lower orders ``c`` is the
continuation count: how many different tokens stand before ``h' w``. Below the lowest order all
``V`` tokens are equally probable, so that each has a probability above 0 after every history;
after a history that was never seen, the one without its oldest token decides. ``D`` is
``n1 / (n1 + 2 n2)`` of the order's own counts, ``n1`` and ``n2`` being the numbers of ones and
twos among them (1/2 where there are no ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


Codes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def kneser_ney(train: Codes, test: Codes, order: int, n_tokens: int) -> Floats:
    """Return the probability of every token of ``test`` after those before it.

    Args:
        train: The text that is counted, ``int[E]`` in ``[0, n_tokens)``, at least one token.
        test: The text that is predicted, ``int[E']``. Its first tokens have fewer before them,
            so a model of a lower order predicts these.
        order: Tokens of an n-gram: 2 predicts from one token, 3 from two.
        n_tokens: ``V``, the size of the vocabulary.

    Returns:
        ``float64[E']``; over all ``V`` tokens in one place they would sum to one.

    Raises:
        ValueError: If ``V**order`` is no 63-bit number.
    """
    if n_tokens**order >= 2**63:
        raise ValueError(f"{n_tokens} tokens are too many for n-grams of {order}")
    seen = _grams(train.astype(np.int64), order, n_tokens)
    levels = [_level(*np.unique(seen, return_counts=True), n_tokens)]
    for length in range(order - 1, 0, -1):
        kept = levels[-1].grams % n_tokens**length  # without the oldest token
        levels.append(_level(*np.unique(kept, return_counts=True), n_tokens))

    text = test.astype(np.int64)
    probability = np.full(len(text), 1 / n_tokens)
    for length, level in enumerate(reversed(levels), start=1):
        grams = _grams(text, length, n_tokens)
        lower = probability[length - 1 :]
        count = _looked_up(grams, level.grams, level.counts)
        total = _looked_up(grams // n_tokens, level.histories, level.totals)
        kinds = _looked_up(grams // n_tokens, level.histories, level.kinds)
        kept_mass = np.maximum(count - level.discount, 0)
        mixed = (kept_mass + level.discount * kinds * lower) / np.maximum(total, 1)
        probability[length - 1 :] = np.where(total > 0, mixed, lower)
    return probability


@dataclass(frozen=True, eq=False)
class _Level:
    """The n-grams of one length that were seen.

    Attributes:
        grams: Each once, ascending, ``int64[G]``: its tokens as the digits of a number.
        counts: How often each was seen, or after how many different tokens, ``int64[G]``.
        histories: What stands before their last tokens, each once, ascending, ``int64[H]``.
        totals: Sum of the counts after each history, ``int64[H]``.
        kinds: How many different tokens follow each history, ``int64[H]``.
        discount: What is taken from every count.
    """

    grams: Integers
    counts: Integers
    histories: Integers
    totals: Integers
    kinds: Integers
    discount: float


def _level(grams: Integers, counts: Integers, n_tokens: int) -> _Level:
    histories, places = np.unique(grams // n_tokens, return_index=True)
    sums = np.concatenate([[0], np.cumsum(counts)])
    ends = np.append(places[1:], len(grams)) if len(places) else places
    ones, twos = (counts == 1).sum(), (counts == 2).sum()
    discount = float(ones / (ones + 2 * twos)) if ones else 0.5
    return _Level(grams, counts, histories, sums[ends] - sums[places], ends - places, discount)


def _grams(codes: Integers, length: int, n_tokens: int) -> Integers:
    """Return the n-gram that ends at each code but the first ``length - 1``, as a number."""
    grams = np.zeros(max(0, len(codes) - length + 1), np.int64)
    for place in range(length):
        grams = grams * n_tokens + codes[place : place + len(grams)]
    return grams


def _looked_up(wanted: Integers, keys: Integers, values: Integers) -> Integers:
    """Return the values of some keys, 0 for those that are not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
