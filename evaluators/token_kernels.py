"""The compiled path of the ``tokens`` head: a block of clusters with few positive examples each.

All examples are counted alike, then the few positive ones once more: no sign is loaded per
example, and neurons go four abreast whatever cluster they are of. What a block votes is read
some examples at a time, so that it stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optuna_wnn.evaluators.cells import HALF_WORD
from optuna_wnn.evaluators.cells import NUMERATOR_SCALE
from optuna_wnn.evaluators.cells import WEIGHT_SCALE
from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import pext


U = np.uint64
_UNIT = WEIGHT_SCALE / NUMERATOR_SCALE
_LOW = 0xFFFFFFFF


@compiled
def masks_of_block(connections: Any, offsets: Any) -> Any:
    """Return each neuron's inputs as the set bits of a word; neuron ``n``'s start at an offset."""
    masks = np.zeros(len(offsets) - 1, np.uint64)
    for n in range(len(masks)):
        for c in range(offsets[n], offsets[n + 1]):
            masks[n] |= U(1) << U(connections[c])
    return masks


@compiled
def count_all(train: Any, masks: Any, counts: Any) -> None:
    """Count all examples in every neuron's cells, ``uint32[n rounded up to 4, cells]``."""
    one = np.uint32(1)
    for n in range(0, len(masks), 4):
        # The last neurons' companions see no input.
        m0 = masks[n]
        m1 = masks[n + 1] if n + 1 < len(masks) else U(0)
        m2 = masks[n + 2] if n + 2 < len(masks) else U(0)
        m3 = masks[n + 3] if n + 3 < len(masks) else U(0)
        c0, c1, c2, c3 = counts[n], counts[n + 1], counts[n + 2], counts[n + 3]
        c0[:], c1[:], c2[:], c3[:] = 0, 0, 0, 0
        for e in range(len(train)):
            x = train[e]
            c0[pext(x, m0)] += one
            c1[pext(x, m1)] += one
            c2[pext(x, m2)] += one
            c3[pext(x, m3)] += one


@compiled
def count_listed(
    train: Any, masks: Any, clusters: Any, listed: Any, starts: Any, counts: Any
) -> None:
    """Count some examples in every neuron's cells.

    Args:
        train: Inputs, ``uint64[E]``.
        masks: See :func:`masks_of_block`.
        clusters: Which cluster of the block each neuron is of, ``int64[n]``.
        listed: The examples that write each cluster, one cluster after the other.
        starts: Where each cluster's begin, ``int64[K + 1]``.
        counts: See :func:`count_all`.
    """
    for n in range(len(masks)):
        counts[n] = 0
        for i in range(starts[clusters[n]], starts[clusters[n] + 1]):
            counts[n, pext(train[listed[i]], masks[n])] += np.uint32(1)


@compiled
def votes_of_block(
    train: Any, read: Any, masks: Any, bits: Any, clusters: Any, positive: Any, starts: Any,
    read_positive: Any, read_starts: Any, counts: Any, kind: int, votes: Any, table: Any,
    n_levels: Any, ballots: Any, scores: Any,
) -> None:  # fmt: skip
    """Turn counts into votes, and add up what the positive examples read are given.

    Args:
        train: Inputs that were counted, ``uint64[E]``.
        read: Inputs that are read.
        masks: See :func:`masks_of_block`.
        bits: Of each neuron, ``int64[n]``.
        clusters: See :func:`count_listed`.
        positive: The positive examples of each cluster, one cluster after the other.
        starts: Where each cluster's begin, ``int64[K + 1]``.
        read_positive: The same of the examples read.
        read_starts: The same.
        counts: See :func:`count_all`.
        kind: Of the cells, with ``votes``, ``table`` and ``n_levels``; see ``votes_of_cells``.
        ballots: Written: what each cell votes, ``int64[n, cells]``.
        scores: Added to, ``int64[n, 2]``.
    """
    cells = np.empty(counts.shape[1], np.uint64)
    for n in range(len(masks)):
        n_cells, mask, k = 1 << bits[n], masks[n], clusters[n]
        for a in range(n_cells):
            cells[a] = U(counts[n, a])
        for i in range(starts[k], starts[k + 1]):
            cells[pext(train[positive[i]], mask)] += U(1) << U(HALF_WORD)
        votes_of_cells(cells, n_cells, kind, votes, table, n_levels, ballots[n])
        for i in range(read_starts[k], read_starts[k + 1]):
            scores[n, 1] += ballots[n, pext(read[read_positive[i]], mask)]


@compiled
def _add_four(read: Any, masks: Any, ballots: Any, sums: Any, totals: Any) -> None:
    """Add what four neurons vote to ``sums``, and what each votes to ``totals[:, 0]``."""
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    v0, v1, v2, v3 = ballots[0], ballots[1], ballots[2], ballots[3]
    s0, s1, s2, s3 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for e in range(len(read)):
        x = read[e]
        a, b, c, d = v0[pext(x, m0)], v1[pext(x, m1)], v2[pext(x, m2)], v3[pext(x, m3)]
        sums[e] += a + b + c + d
        s0, s1, s2, s3 = s0 + a, s1 + b, s2 + c, s3 + d
    totals[0, 0] += s0
    totals[1, 0] += s1
    totals[2, 0] += s2
    totals[3, 0] += s3


@compiled
def _add_one(read: Any, mask: Any, ballots: Any, sums: Any, totals: Any) -> None:
    """Do the same for one neuron."""
    total = np.int64(0)
    for e in range(len(read)):
        vote = ballots[pext(read[e], mask)]
        sums[e] += vote
        total += vote
    totals[0] += total


@compiled
def add_votes_of_block(
    read: Any, masks: Any, starts: Any, ballots: Any, sums: Any, totals: Any
) -> None:
    """Add what clusters vote on some examples to their sums.

    Args:
        read: Inputs, ``uint64[E]``.
        masks: See :func:`masks_of_block`.
        starts: Where each cluster's neurons begin, ``int64[K + 1]``.
        ballots: See :func:`votes_of_block`.
        sums: Added to, ``int64[K, E]``.
        totals: Of each neuron; its first column is added to, ``int64[n, 2]``.
    """
    for k in range(len(sums)):
        n, last = starts[k], starts[k + 1]
        while n + 4 <= last:
            _add_four(read, masks[n : n + 4], ballots[n : n + 4], sums[k], totals[n : n + 4])
            n += 4
        while n < last:
            _add_one(read, masks[n], ballots[n], sums[k], totals[n])
            n += 1


@compiled
def exponents(
    sums: Any, packed: bool, divisors: Any, sharpness: float, outputs: Any, top: Any, tied: Any,
    mine: Any, places: Any, of_target: Any,
) -> None:  # fmt: skip
    """Turn sums of votes into what the softmax is made of; see :func:`tokens.block_terms`.

    Args:
        sums: Of votes, ``int64[K, E]``.
        packed: See ``Cells``.
        divisors: What sums are divided by where they are not packed, ``float64[K]``.
        sharpness: One over the temperature.
        outputs: Written: ``(output - top) * sharpness``, ``float64[K, E]``.
        top: Written: the highest output, ``float64[E]``.
        tied: Written: how many are the highest, ``int32[E]``.
        mine: Examples whose target is among these clusters, ``int64[n]``.
        places: Which cluster that is, ``int64[n]``.
        of_target: Written: its output, ``float64[n]``.
    """
    n_clusters, n_examples = sums.shape
    one = np.int32(1)
    for k in range(n_clusters):
        row, out = sums[k], outputs[k]
        if packed:
            for e in range(n_examples):
                scaled = np.float64(row[e] >> HALF_WORD) * _UNIT
                weight = np.float64(row[e] & _LOW)
                out[e] = scaled / weight if weight > 0.0 else 0.0
        else:
            divisor = divisors[k]
            for e in range(n_examples):
                out[e] = np.float64(row[e]) / divisor
        if k == 0:
            top[:] = out
            tied[:] = one
        else:
            for e in range(n_examples):
                value, best = out[e], top[e]
                tied[e] = one if value > best else tied[e] + np.int32(value == best)
                top[e] = value if value > best else best
    for i in range(len(mine)):
        of_target[i] = outputs[places[i], mine[i]]
    for k in range(n_clusters):
        out = outputs[k]
        for e in range(n_examples):
            out[e] = (out[e] - top[e]) * sharpness
