"""What informed moves know: what inputs tell, and which examples are looked at first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.heads import cluster_targets
from optuna_wnn.tasks.base import Task


PIECE: Final = 256  # examples that are in the sample together, or not; a multiple of 64
SAMPLED: Final = 8  # every so many pieces
_ANYWAY: Final = 64  # chance of an input that tells nothing but varies
_TELLING: Final = 192  # mean chance on top of it, in proportion to what the input tells
_AT_ONCE: Final = 4096  # examples unpacked at a time


def in_sample(n_examples: int) -> NDArray[np.bool_]:
    """Return which examples are looked at first."""
    flags: NDArray[np.bool_] = np.arange(n_examples) // PIECE % SAMPLED == 0
    return flags


def information(task: Task) -> NDArray[np.float64]:
    """Return the mutual information of each input and each cluster's target bit.

    It is estimated from the training examples, without regard to other inputs.

    Returns:
        Nats, ``float64[K, B]``; -1 where an input never varies.
    """
    train, n = task.train, len(task.train)
    positives = np.stack(
        [
            cluster_targets(task.head, task.n_head_outputs, train.targets, k)
            for k in range(task.n_head_outputs)
        ]
    )
    both = np.zeros((len(positives), task.n_inputs), np.int64)
    ones = np.zeros(task.n_inputs, np.int64)
    for first in range(0, n, _AT_ONCE):
        octets = train.inputs[first : first + _AT_ONCE].astype("<u8").view(np.uint8)
        bits = np.unpackbits(octets, axis=1, bitorder="little")[:, : task.n_inputs]
        # Whole numbers below 2**24 are exact in float32, whose products are quick.
        of_both = positives[:, first : first + _AT_ONCE].astype(np.float32) @ bits.astype(
            np.float32
        )
        both += of_both.astype(np.int64)
        ones += bits.sum(axis=0, dtype=np.int64)
    set_ = positives.sum(axis=1, dtype=np.int64)[:, None]
    total = np.zeros(both.shape)
    for joint, of_target, of_input in (
        (both, set_, ones),
        (ones - both, n - set_, ones),
        (set_ - both, set_, n - ones),
        (n - set_ - ones + both, n - set_, n - ones),
    ):
        expected = of_target * (of_input / n)
        share = np.divide(joint, expected, out=np.ones(both.shape), where=joint > 0)
        total += joint / n * np.log(share)
    nats = np.where((ones == 0) | (ones == n), -1.0, np.maximum(total, 0.0))
    return np.repeat(nats, task.clusters_per_output, axis=0)


def chances(nats: NDArray[np.float64], visible: Sequence[int]) -> NDArray[np.int64]:
    """Return how often each cluster's moves propose each input, added up, ``int64[K, B]``.

    Args:
        nats: What :func:`information` returns.
        visible: How many inputs each cluster may observe.
    """
    weights = np.zeros(nats.shape, np.int64)
    for row, of_cluster, n_visible in zip(weights, nats, visible, strict=True):
        seen = of_cluster[:n_visible]
        varies = seen >= 0
        mean = seen[varies].mean() if varies.any() else 0.0
        share = seen / mean if mean > 0 else np.zeros(n_visible)
        row[:n_visible] = np.where(varies, _ANYWAY + np.rint(_TELLING * share), 0)
    return np.cumsum(weights, axis=1)
