"""The counting model without context that results are compared with, in nats per example."""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray


Codes = NDArray[np.integer[Any]]
_ADDED: Final = 0.1


def unigram(train: Codes, test: Codes, n_outputs: int) -> float:
    """Return the cross-entropy on ``test`` of the shares of the targets in ``train``.

    Every count is 0.1 higher than it is (Lidstone smoothing), so that nothing is impossible.

    Args:
        train: Targets in ``[0, n_outputs)`` that are counted, ``int[E]``.
        test: Targets that are predicted, ``int[E']``, at least one.
        n_outputs: How many values a target can take.
    """
    counts = np.bincount(train, minlength=n_outputs) + _ADDED
    return float(np.log(counts.sum()) - np.log(counts[test]).mean())
