"""Counting models that every result is compared with: what they lose, in nats per example.

Both add 0.1 to every count (Lidstone smoothing), so that nothing is impossible. On the text
of Python 3.11's topics that gives 3.250 nats per byte without context and 2.330 with one byte.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray


Codes = NDArray[np.integer[Any]]
_ADDED: Final = 0.1


def unigram(train: Codes, test: Codes, n_outputs: int) -> float:
    """Return the cross-entropy on ``test`` of the shares of the targets in ``train``.

    Args:
        train: Targets in ``[0, n_outputs)`` that are counted, ``int[E]``.
        test: Targets that are predicted, ``int[E']``, at least one.
        n_outputs: How many values a target can take.
    """
    counts = np.bincount(train, minlength=n_outputs) + _ADDED
    return float(np.log(counts.sum()) - np.log(counts[test]).mean())


def bigram(train: Codes, test: Codes, first: int, n_outputs: int) -> float:
    """Return the cross-entropy on ``test`` when each code is predicted from the one before it.

    Args:
        train: A sequence of codes in ``[0, n_outputs)``, ``int[E]``; its pairs are counted.
        test: Another sequence, ``int[E']``.
        first: The first place of ``test`` that is predicted, in ``[1, E')``.
        n_outputs: How many values a code can take; ``n_outputs**2`` counts are held.
    """
    pairs = train[:-1].astype(np.int64) * n_outputs + train[1:]
    counts = np.bincount(pairs, minlength=n_outputs**2).reshape(n_outputs, n_outputs) + _ADDED
    before, after = test[first - 1 : -1], test[first:]
    return float((np.log(counts.sum(1)[before]) - np.log(counts[before, after])).mean())
