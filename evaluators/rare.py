"""The compiled path for clusters with few positive examples, as those of rare tokens.

All examples are counted alike, then the few positive ones once more: no sign is loaded per
example. Four tables are always being filled; where fewer neurons are left, each takes several
of them for a share of the examples.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np

from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.fused import masks_of
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import pext


RARE_BITS: Final = 12  # up to here four tables of counts fit the first-level cache

U = np.uint64
_HALF: Final = U(32)


@compiled
def _count(train: Any, starts: Any, length: int, masks: Any, cells: Any) -> None:
    """Count ``length`` examples from each of four starts in four tables."""
    t0, t1 = train[starts[0] : starts[0] + length], train[starts[1] : starts[1] + length]
    t2, t3 = train[starts[2] : starts[2] + length], train[starts[3] : starts[3] + length]
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    c0, c1, c2, c3 = cells[0], cells[1], cells[2], cells[3]
    one = np.uint32(1)
    for e in range(length):
        c0[pext(t0[e], m0)] += one
        c1[pext(t1[e], m1)] += one
        c2[pext(t2[e], m2)] += one
        c3[pext(t3[e], m3)] += one


@compiled
def _read(read: Any, masks: Any, votes: Any, sums: Any, totals: Any) -> None:
    """Add the votes of four neurons to ``sums``; write what each of them adds."""
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    v0, v1, v2, v3 = votes[0], votes[1], votes[2], votes[3]
    s0, s1, s2, s3 = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for e in range(len(read)):
        x = read[e]
        a, b, c, d = v0[pext(x, m0)], v1[pext(x, m1)], v2[pext(x, m2)], v3[pext(x, m3)]
        sums[e] += a + b + c + d
        s0, s1, s2, s3 = s0 + a, s1 + b, s2 + c, s3 + d
    totals[0], totals[1], totals[2], totals[3] = s0, s1, s2, s3


@compiled
def rare_count_votes(
    connections: Any, train: Any, positive: Any, read: Any, read_positive: Any,
    kind: int, votes: Any, table: Any, n_levels: Any, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Do what ``count_votes`` does, given the numbers of the positive examples."""
    n_neurons, n_bits = connections.shape
    n_cells, n_train = 1 << n_bits, len(train)
    masks = masks_of(connections)
    counts = np.empty((4, n_cells), np.uint32)
    cells = np.empty(n_cells, np.uint64)
    ballots = np.empty((4, n_cells), np.int64)
    starts, totals, four = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4, np.uint64)
    n = 0
    while n < n_neurons:
        left = n_neurons - n
        abreast = 4 if left >= 4 else 2 if left >= 2 else 1
        shares = 4 // abreast
        length = n_train // shares
        for i in range(4):
            four[i] = masks[n + i // shares]
            starts[i] = i % shares * length
        counts[:] = 0
        _count(train, starts, length, four, counts)
        for i in range(abreast):
            mask = masks[n + i]
            cells[:] = U(0)
            for share in range(shares):
                row = counts[i * shares + share]
                for a in range(n_cells):
                    cells[a] += U(row[a])
            for e in range(shares * length, n_train):
                cells[pext(train[e], mask)] += U(1)
            for e in positive:
                cells[pext(train[e], mask)] += U(1) << _HALF
            votes_of_cells(cells, n_cells, kind, votes, table, n_levels, ballots[i])
            for e in read_positive:
                scores[n + i, 1] += ballots[i, pext(read[e], mask)]
        ballots[abreast:] = 0
        for i in range(abreast, 4):
            four[i] = U(0)
        for i in range(abreast):
            four[i] = masks[n + i]
        _read(read, four, ballots, sums, totals)
        for i in range(abreast):
            scores[n + i, 0] += totals[i] - scores[n + i, 1]
        n += abreast
