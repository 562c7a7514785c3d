"""Token codes: which number a token is where its bits are inputs, and where it is a target."""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray


CODES: Final = ("id", "gray", "frequency")


def code_tables(
    code: str, train: NDArray[np.integer[Any]], n_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of every token as an input, and as a target.

    Args:
        code: ``id`` is the tokenizer's number. ``frequency`` is the rank by the count in the
            training text, the commonest first, equal ones by their id. ``gray`` is the id's
            Gray code (F. Gray, US patent 2,632,058, 1953) in the inputs: neighbours differ in one
            bit. Targets then are ids: where ``V`` is no power of two, some Gray codes below the
            highest belong to no token.
        train: The tokens of the training text, ``int[E]`` in ``[0, n_tokens)``.
        n_tokens: ``V``, the size of the vocabulary.

    Returns:
        ``int64[V]`` below the least power of two that is not less than ``V``, and
        ``int64[V]``, a permutation of ``[0, V)``.
    """
    ids = np.arange(n_tokens)
    if code == "gray":
        return ids ^ ids >> 1, ids
    if code == "frequency":
        counts = np.bincount(train, minlength=n_tokens)
        ranks = np.empty(n_tokens, np.int64)
        ranks[np.argsort(-counts, kind="stable")] = ids
        return ranks, ranks
    return ids, ids
