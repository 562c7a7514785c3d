"""The compiled path for what is evaluated most: inputs of one word, dense tables, no sampling.

All examples train; those read are others, or the same with each left out of its own cells.

Addresses come from the ``pext`` instruction straight into the table access. Four neurons go
side by side, or two where four tables are too large: they still fit the cache, and the processor
overlaps chains of load, update and store where one would wait for itself.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import add_votes
from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import pext


ABREAST: Final = 4
# Above, four tables of states or two of counts no longer fit; neurons then go one by one.
STATE_BITS: Final = 18
COUNT_BITS: Final = 14
FOUR_BITS: Final = 10  # up to here four tables of counts fit the first-level cache

U = np.uint64
_HALF: Final = U(32)
_SEEN: Final = U(0xFFFFFFFF)
_FULL: Final = 1 << 15  # examples that a cell of 4 bytes counts
_WHERE: Final = U(0x7FFFFFFF)


@compiled
def _unfold(cell: Any) -> Any:
    """Return a cell's counts, all in the low half and positive ones in the high."""
    return (cell >> U(16)) + ((cell & U(0xFFFF)) << _HALF)


@compiled
def masks_of(connections: Any) -> Any:
    """Return each neuron's inputs as the set bits of a word, ``uint64[n]``."""
    masks = np.zeros(len(connections), np.uint64)
    for n in range(len(connections)):
        for input_ in connections[n]:
            masks[n] |= U(1) << U(input_)
    return masks


@compiled
def state_votes(
    connections: Any, train: Any, train_positives: Any, read: Any, read_positives: Any,
    start: int, down: Any, up: Any, weights: Any, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Do what ``general_votes`` does for cells that are states, four neurons at a time.

    A cell takes a byte here. ``weights`` has the votes by state, 16 bits each.
    """
    n_neurons, n_bits = connections.shape
    masks = masks_of(connections)
    cells = np.empty((4, 1 << n_bits), np.uint8)
    c0, c1, c2, c3 = cells[0], cells[1], cells[2], cells[3]
    change = down ^ up
    low = U(0xFFFF)
    for n in range(0, n_neurons, 4):
        # The last neurons' companions see no input; what they vote is not added.
        m0 = masks[n]
        m1 = masks[n + 1] if n + 1 < n_neurons else U(0)
        m2 = masks[n + 2] if n + 2 < n_neurons else U(0)
        m3 = masks[n + 3] if n + 3 < n_neurons else U(0)
        w1 = weights if n + 1 < n_neurons else U(0)
        w2 = weights if n + 2 < n_neurons else U(0)
        w3 = weights if n + 3 < n_neurons else U(0)
        cells[:] = start
        for e in range(len(train)):
            x = train[e]
            step = down ^ (change & (U(0) - U(train_positives[e])))
            a0, a1, a2, a3 = pext(x, m0), pext(x, m1), pext(x, m2), pext(x, m3)
            c0[a0] = np.uint8(step >> U(c0[a0]))
            c1[a1] = np.uint8(step >> U(c1[a1]))
            c2[a2] = np.uint8(step >> U(c2[a2]))
            c3[a3] = np.uint8(step >> U(c3[a3]))
        # What negative examples got adds up in the low half, what positive ones got in the high.
        s0, s1, s2, s3 = U(0), U(0), U(0), U(0)
        for e in range(len(read)):
            x = read[e]
            v0 = (weights >> (U(c0[pext(x, m0)]) << U(1))) & low
            v1 = (w1 >> (U(c1[pext(x, m1)]) << U(1))) & low
            v2 = (w2 >> (U(c2[pext(x, m2)]) << U(1))) & low
            v3 = (w3 >> (U(c3[pext(x, m3)]) << U(1))) & low
            sums[e] += np.int64(v0 + v1 + v2 + v3)
            half = U(read_positives[e]) << U(5)
            s0, s1 = s0 + (v0 << half), s1 + (v1 << half)
            s2, s3 = s2 + (v2 << half), s3 + (v3 << half)
        totals = (s0, s1, s2, s3)
        for i in range(min(4, n_neurons - n)):
            scores[n + i, 0] += np.int64(totals[i] & _SEEN)
            scores[n + i, 1] += np.int64(totals[i] >> _HALF)


@compiled
def _few_cells(n_read: int, leave_out: bool) -> int:
    """Return up to how many cells it is less work to find all their votes than one per example.

    Cells that saw no example are skipped where examples are left out: nobody reads them.
    """
    return n_read if leave_out else n_read // 2


@compiled
def _example(positive: Any) -> Any:
    """Return what an example adds to a cell's counts."""
    return U(1) + (U(positive) << _HALF)


@compiled
def _read_counts(
    cells: Any, mask: Any, read: Any, positives: Any, leave_out: bool, kind: int, votes: Any,
    table: Any, n_levels: Any, sums: Any, score: Any,
) -> None:  # fmt: skip
    """Add one neuron's votes to ``sums`` and to its score, from the counts themselves."""
    found = np.empty(RUN, np.uint64)
    for first in range(0, len(read), RUN):
        count = min(RUN, len(read) - first)
        for i in range(count):
            found[i] = cells[pext(read[first + i], mask)]
        if leave_out:
            for i in range(count):
                found[i] -= _example(positives[first + i])
        add_votes(found, first, count, kind, votes, table, n_levels, positives, sums, score)


@compiled
def _leave_out(cell: Any, number: Any, others: Any) -> Any:
    """Write what is left of a cell without an example of either kind; return the next number.

    Args:
        cell: Its counts.
        number: The cell's, among those that have seen an example; the next cell gets the same
            if this one has seen none.
        others: Counts without a negative example at ``2 * number``, without a positive one after
            it. Where there is no such example nobody asks, and nothing is taken away.
    """
    positive = cell >> _HALF
    others[2 * number] = cell - U(positive < (cell & _SEEN))
    others[2 * number + 1] = cell - _example(1) * U(positive > U(0))
    return number + np.int64(cell != U(0))


@compiled
def _read_others(
    numbers: Any, n_known: int, mask: Any, read: Any, positives: Any, others: Any, kind: int,
    votes: Any, table: Any, n_levels: Any, sums: Any, score: Any,
) -> None:  # fmt: skip
    """Do what :func:`_read_counts` does where few cells are read by many examples.

    Args:
        numbers: Of the cells; see :func:`_leave_out`.
        n_known: How many there are.
        mask: The neuron's inputs.
        read: The examples, all of which have trained it.
        positives: Which of them are positive.
        others: From :func:`_leave_out`; overwritten.
        kind: Of the cells, with ``votes``, ``table`` and ``n_levels``.
        votes: See :func:`votes_of_cells`.
        table: See there.
        n_levels: See there.
        sums: Added to, ``int64[examples]``.
        score: Added to, ``int64[2]``.
    """
    found = others.view(np.int64)
    votes_of_cells(others, 2 * n_known, kind, votes, table, n_levels, found)
    total, of_positives = 0, 0
    for e in range(len(read)):
        positive = U(positives[e])
        vote = found[(U(numbers[pext(read[e], mask)]) << U(1)) | positive]
        sums[e] += vote
        total += vote
        of_positives += vote & -np.int64(positive)
    score[0] += total - of_positives
    score[1] += of_positives


@compiled
def _count_four(train: Any, positives: Any, masks: Any, cells: Any) -> None:
    """Count all examples, and positive ones in the high half, in the tables of four neurons."""
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    c0, c1, c2, c3 = cells[0], cells[1], cells[2], cells[3]
    for e in range(len(train)):
        x, one = train[e], _example(positives[e])
        c0[pext(x, m0)] += one
        c1[pext(x, m1)] += one
        c2[pext(x, m2)] += one
        c3[pext(x, m3)] += one


@compiled
def _count_two(train: Any, positives: Any, masks: Any, cells: Any) -> None:
    """Do the same for two neurons."""
    m0, m1, c0, c1 = masks[0], masks[1], cells[0], cells[1]
    for e in range(len(train)):
        x, one = train[e], _example(positives[e])
        c0[pext(x, m0)] += one
        c1[pext(x, m1)] += one


@compiled
def _read_four(read: Any, positives: Any, masks: Any, cells: Any, sums: Any, totals: Any) -> None:
    """Add the votes of four neurons to ``sums``; write each one's total, and of positives."""
    m0, m1, m2, m3 = masks[0], masks[1], masks[2], masks[3]
    c0, c1, c2, c3 = cells[0], cells[1], cells[2], cells[3]
    s0, s1, s2, s3 = U(0), U(0), U(0), U(0)
    p0, p1, p2, p3 = U(0), U(0), U(0), U(0)
    for e in range(len(read)):
        x, positive = read[e], U(0) - U(positives[e])
        v0, v1, v2, v3 = c0[pext(x, m0)], c1[pext(x, m1)], c2[pext(x, m2)], c3[pext(x, m3)]
        sums[e] += np.int64(v0 + v1 + v2 + v3)
        s0, s1, s2, s3 = s0 + v0, s1 + v1, s2 + v2, s3 + v3
        p0, p1 = p0 + (v0 & positive), p1 + (v1 & positive)
        p2, p3 = p2 + (v2 & positive), p3 + (v3 & positive)
    totals[0, 0], totals[1, 0], totals[2, 0], totals[3, 0] = s0, s1, s2, s3
    totals[0, 1], totals[1, 1], totals[2, 1], totals[3, 1] = p0, p1, p2, p3


@compiled
def _read_two(read: Any, positives: Any, masks: Any, cells: Any, sums: Any, totals: Any) -> None:
    """Do the same for two neurons."""
    m0, m1, c0, c1 = masks[0], masks[1], cells[0], cells[1]
    s0, s1, p0, p1 = U(0), U(0), U(0), U(0)
    for e in range(len(read)):
        x, positive = read[e], U(0) - U(positives[e])
        v0, v1 = c0[pext(x, m0)], c1[pext(x, m1)]
        sums[e] += np.int64(v0 + v1)
        s0, s1 = s0 + v0, s1 + v1
        p0, p1 = p0 + (v0 & positive), p1 + (v1 & positive)
    totals[0, 0], totals[1, 0], totals[0, 1], totals[1, 1] = s0, s1, p0, p1


@compiled
def count_votes(
    connections: Any, train: Any, train_positives: Any, read: Any, read_positives: Any,
    leave_out: bool, kind: int, votes: Any, table: Any, n_levels: Any, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Do what ``general_votes`` does for cells that count, two or four neurons at a time.

    With ``leave_out``, the examples read are among those that train, and each is taken out of
    the cells that it reads.
    """
    n_neurons, n_bits = connections.shape
    n_cells = 1 << n_bits
    together = 4 if n_bits <= FOUR_BITS else 2
    masks = np.zeros(n_neurons + 3, np.uint64)  # the last neurons' companions see no input
    masks[:n_neurons] = masks_of(connections)
    cells = np.empty((together, n_cells), np.uint64)
    totals = np.empty((together, 2), np.uint64)
    # Votes of cells are worked out once where that is less work than one by one.
    in_place = n_cells <= _few_cells(len(read), leave_out)
    others = np.empty(2 * n_cells + 2 if in_place and leave_out else 0, np.uint64)
    for n in range(0, n_neurons, together):
        own = masks[n : n + together]
        abreast = min(together, n_neurons - n)
        cells[:] = U(0)
        if together == 4:
            _count_four(train, train_positives, own, cells)
        else:
            _count_two(train, train_positives, own, cells)
        if in_place and leave_out:
            for i in range(abreast):
                n_known = 0
                for a in range(n_cells):
                    number = U(n_known)
                    n_known = _leave_out(cells[i, a], n_known, others)
                    cells[i, a] = number
                _read_others(
                    cells[i], n_known, own[i], read, read_positives, others, kind, votes, table,
                    n_levels, sums, scores[n + i],
                )  # fmt: skip
        elif in_place:
            for i in range(abreast):
                votes_of_cells(
                    cells[i], n_cells, kind, votes, table, n_levels, cells[i].view(np.int64)
                )
            cells[abreast:] = U(0)
            if together == 4:
                _read_four(read, read_positives, own, cells, sums, totals)
            else:
                _read_two(read, read_positives, own, cells, sums, totals)
            for i in range(abreast):
                scores[n + i, 0] += np.int64(totals[i, 0] - totals[i, 1])
                scores[n + i, 1] += np.int64(totals[i, 1])
        else:
            for i in range(abreast):
                _read_counts(
                    cells[i], own[i], read, read_positives, leave_out, kind, votes, table,
                    n_levels, sums, scores[n + i],
                )  # fmt: skip


@compiled
def wide_state_votes(
    connections: Any, train: Any, train_positives: Any, read: Any, read_positives: Any,
    start: int, down: Any, up: Any, weights: Any, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Do what :func:`state_votes` does, one neuron at a time."""
    n_neurons, n_bits = connections.shape
    masks = masks_of(connections)
    cells = np.empty(1 << n_bits, np.uint8)
    change = down ^ up
    for n in range(n_neurons):
        mask = masks[n]
        cells[:] = start
        for e in range(len(train)):
            a = pext(train[e], mask)
            step = down ^ (change & (U(0) - U(train_positives[e])))
            cells[a] = np.uint8(step >> U(cells[a]))
        for e in range(len(read)):
            vote = np.int64((weights >> (U(cells[pext(read[e], mask)]) << U(1))) & U(0xFFFF))
            sums[e] += vote
            scores[n, read_positives[e]] += vote


@compiled
def wide_count_votes(
    connections: Any, train: Any, train_positives: Any, read: Any, read_positives: Any,
    leave_out: bool, kind: int, votes: Any, table: Any, n_levels: Any, sums: Any, scores: Any,
) -> None:  # fmt: skip
    """Do what :func:`count_votes` does, one neuron at a time.

    A cell takes 4 bytes here, so that twice as many fit a cache: all examples in the upper half,
    positive ones in the lower. The few that reach ``2**15`` are set aside and start again.
    """
    n_neurons, n_bits = connections.shape
    n_cells = 1 << n_bits
    masks = masks_of(connections)
    cells = np.empty(n_cells, np.uint32)
    found = np.empty(RUN, np.uint64)
    in_place = leave_out and n_cells <= _few_cells(len(read), leave_out)
    others = np.empty(2 * n_cells + 2 if in_place else 0, np.uint64)
    most = len(train) // _FULL + 1
    aside, totals = np.empty(most, np.uint64), np.empty(most, np.uint64)
    for n in range(n_neurons):
        mask = masks[n]
        cells[:] = 0
        n_aside = 0
        for e in range(len(train)):
            a = pext(train[e], mask)
            cell = U(cells[a]) + (U(1) << U(16)) + U(train_positives[e])
            if cell >> U(31):
                aside[n_aside], totals[n_aside] = a, _unfold(cell)
                n_aside += 1
                cell = U(0)
            cells[a] = np.uint32(cell)
        for i in range(n_aside):
            # From now on such a cell says where its total is.
            a = aside[i]
            cell = U(cells[a])
            if cell >> U(31):
                totals[cell & _WHERE] += totals[i]
            else:
                totals[i] += _unfold(cell)
                cells[a] = np.uint32((U(1) << U(31)) | U(i))
        if in_place:
            n_known = 0
            for a in range(n_cells):
                cell, number = U(cells[a]), np.uint32(n_known)
                counts = totals[cell & _WHERE] if cell >> U(31) else _unfold(cell)
                n_known = _leave_out(counts, n_known, others)
                cells[a] = number
            _read_others(
                cells, n_known, mask, read, read_positives, others, kind, votes, table, n_levels,
                sums, scores[n],
            )  # fmt: skip
            continue
        for first in range(0, len(read), RUN):
            count = min(RUN, len(read) - first)
            for i in range(count):
                cell = U(cells[pext(read[first + i], mask)])
                found[i] = totals[cell & _WHERE] if cell >> U(31) else _unfold(cell)
            if leave_out:
                for i in range(count):
                    found[i] -= _example(read_positives[first + i])
            add_votes(
                found, first, count, kind, votes, table, n_levels, read_positives, sums, scores[n]
            )
