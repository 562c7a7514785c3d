"""Compiled building blocks of the ``cpu`` backend: addresses, cells, votes.

Everything here works on one neuron and a run of examples at a time, so that what it touches
stays in the processor's cache. A cell is 64 bits wide:

* ``flags`` and ``counter``: 8 times the state; the next state is a byte of a constant, shifted
  by the cell, so an update is load, shift, store without a branch.
* ``majority``, ``share``, ``levels``: all examples in the low half, positive ones in the high.
"""

from __future__ import annotations

from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import CellKind
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import leading_zeros
from optuna_wnn.evaluators.jit import pext


Words = NDArray[np.uint64]

RUN: Final = 1024  # examples whose addresses are held at a time
KINDS: Final[dict[CellKind, int]] = {
    "flags": 0,
    "counter": 1,
    "majority": 2,
    "share": 3,
    "levels": 4,
}
FIRST_COUNTING: Final = 2

# Next state by state, a byte each (times 8), after a negative and after a positive example.
TRANSITIONS: Final[dict[CellKind, tuple[int, int, int]]] = {
    # start, negative: state | 1, positive: state | 2
    "flags": (0, 0x18180808, 0x18101810),
    # start, negative: down to 0, positive: up to 3
    "counter": (8, 0x10080000, 0x18181008),
}

U = np.uint64
_BYTES: Final = 8  # per word
_SEEN: Final = U(0xFFFFFFFF)
_HALF: Final = U(32)


@compiled
def mix(z: Any) -> Any:
    """Return what :func:`optuna_wnn.genome.mix64` returns, of one number."""
    z = z + U(0x9E3779B97F4A7C15)
    z = (z ^ (z >> U(30))) * U(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U(27))) * U(0x94D049BB133111EB)
    return z ^ (z >> U(31))


@compiled
def level_of(count: Any) -> Any:
    """Return what :func:`optuna_wnn.evaluators.cells.level` returns, of one ``uint64``."""
    shift = U(60) - leading_zeros(count | U(15))  # without a branch that cannot be predicted
    return (shift << U(3)) + (count >> shift)


@compiled
def votes_of_cells(
    cells: Any, count: int, kind: int, votes: Any, table: Any, n_levels: Any, out: Any
) -> None:
    """Write what ``count`` cells vote; a loop per kind, so that each is without branches.

    Args:
        cells: ``uint64[count or more]``.
        count: How many there are.
        kind: Of the cells (see ``KINDS``).
        votes: Vote by state, or of a tie, a negative and a positive majority.
        table: Vote by levels; see ``Cells``.
        n_levels: Levels of each count, ``uint64``.
        out: The votes, ``int64[count or more]``; may be the same memory as ``cells``.
    """
    if kind == 4:
        for i in range(count):
            positives = cells[i] >> _HALF
            negatives = (cells[i] & _SEEN) - positives
            out[i] = table[level_of(positives) * n_levels + level_of(negatives)]
    elif kind == 3:
        for i in range(count):
            # The quotient of these integers is exact in float64 as far as its floor goes.
            following = np.float64((cells[i] & _SEEN) + U(1))
            twice = np.float64((cells[i] >> _HALF) * U(2) + U(1))
            out[i] = np.int64((twice * 256.0 + following) / (following * 2.0))
    elif kind == 2:
        for i in range(count):
            positives = cells[i] >> _HALF
            negatives = (cells[i] & _SEEN) - positives
            out[i] = votes[np.int64(positives > negatives) * 2 + np.int64(positives < negatives)]
    else:
        for i in range(count):
            out[i] = votes[cells[i] >> U(3)]


@compiled
def plan_address(
    observed: Any, first: int, last: int, use_pext: bool, steps: Any, luts: Any
) -> Any:
    """Prepare the address bits that the connections ``first`` to ``last`` make.

    Args:
        observed: The inputs of one neuron, ``int32[bits]`` ascending.
        first: The first connection that takes part; it becomes address bit 0.
        last: One past the last; at most 64 more than ``first``.
        use_pext: Whether bits are extracted by instruction, a word at a time, or looked up, a
            byte at a time.
        steps: Filled, ``uint64[n, 3]``: per word its index, mask and shift; per byte the index
            of its word and its shift there.
        luts: Filled where bits are looked up, ``uint64[n, 256]``: address bits by byte.

    Returns:
        How many of the steps are used.
    """
    width = 64 if use_pext else _BYTES
    n_steps = 0
    previous = -1
    for position in range(first, last):
        unit = observed[position] // width
        bit = U(observed[position] % width)
        if unit != previous:
            steps[n_steps, 0] = U(observed[position] // 64)
            steps[n_steps, 1] = U(0)
            steps[n_steps, 2] = U(position - first)
            if not use_pext:
                steps[n_steps, 1] = U(unit % _BYTES * 8)
                for octet in range(256):
                    luts[n_steps, octet] = U(0)
            previous = unit
            n_steps += 1
        if use_pext:
            steps[n_steps - 1, 1] |= U(1) << bit
        else:
            for octet in range(256):
                if (U(octet) >> bit) & U(1):
                    luts[n_steps - 1, octet] |= U(1) << U(position - first)
    return n_steps


@compiled
def find_addresses(
    inputs: Any, first: int, count: int, use_pext: bool, n_steps: int, steps: Any, luts: Any,
    addresses: Any,
) -> None:  # fmt: skip
    """Write the addresses of ``count`` examples from ``first`` on; see :func:`plan_address`."""
    found = addresses[:count]  # slices from 0 on: the loops become vector instructions
    found[:] = U(0)
    for s in range(n_steps):
        words = inputs[first : first + count, steps[s, 0]]
        if use_pext:
            mask, shift = steps[s, 1], steps[s, 2]
            for i in range(len(found)):
                found[i] |= pext(words[i], mask) << shift
        else:
            shift = steps[s, 1]
            lut = luts[s]
            for i in range(len(found)):
                found[i] |= lut[(words[i] >> shift) & U(255)]


@compiled
def number_addresses(
    low: Any, high: Any, count: int, slots: Any, keys: Any, n_known: int, insert: bool
) -> int:
    """Replace addresses too wide for a dense table by numbers, the same for the same address.

    Open addressing with linear probing; keys are compared whole, so nothing collides.

    Args:
        low: The low 64 bits of ``count`` addresses, replaced by 1 and up, or 0 if unknown.
        high: The high 64 bits.
        count: How many there are.
        slots: Number of the address that hashed there, or 0, ``int32[power of two]``.
        keys: The addresses known, by number, ``uint64[n + 1, 2]``.
        n_known: How many addresses are known.
        insert: Whether unknown ones get the next number.

    Returns:
        How many addresses are known now.
    """
    last = U(len(slots) - 1)
    for i in range(count):
        slot = mix(low[i] ^ mix(high[i])) & last
        while True:
            number = slots[slot]
            if number == 0:
                if insert:
                    n_known += 1
                    number = n_known
                    slots[slot] = number
                    keys[number, 0] = low[i]
                    keys[number, 1] = high[i]
                break
            if keys[number, 0] == low[i] and keys[number, 1] == high[i]:
                break
            slot = (slot + U(1)) & last
        low[i] = U(number)
    return n_known


@compiled
def write_cells(
    cells: Any, addresses: Any, first: int, count: int, positives: Any, kind: int, down: Any,
    up: Any, key: Any, threshold: Any, sign: Any,
) -> None:  # fmt: skip
    """Train one neuron on ``count`` examples from ``first`` on.

    Args:
        cells: Changed.
        addresses: Of these examples.
        first: The first example's number.
        count: How many there are.
        positives: Which examples are positive, ``uint8[E]``.
        kind: Of the cells (see ``KINDS``).
        down: Next state after a negative example, by state.
        up: The same after a positive one.
        key: What decides which examples are kept.
        threshold: Below which number one is; 0 keeps all.
        sign: 1, or all ones to take the examples out of cells that count.
    """
    for i in range(count):
        e = first + i
        if threshold and mix(key + U(e)) >= threshold:
            continue
        a = addresses[i]
        if kind < 2:
            cells[a] = ((up if positives[e] else down) >> cells[a]) & U(255)
        else:
            cells[a] += (U(1) + (U(positives[e]) << _HALF)) * sign


@compiled
def read_cells(
    cells: Any, addresses: Any, first: int, count: int, kind: int, votes: Any, table: Any,
    n_levels: Any, positives: Any, sums: Any, score: Any,
) -> None:  # fmt: skip
    """Add one neuron's votes on ``count`` examples from ``first`` on to ``sums``.

    Args:
        cells: Of the neuron.
        addresses: Of these examples; replaced by their cells.
        first: The first example's number among those read.
        count: How many there are.
        kind: Of the cells, with ``votes``, ``table`` and ``n_levels``.
        votes: See :func:`votes_of_cells`.
        table: See there.
        n_levels: See there.
        positives: Which examples read are positive, ``uint8[E]``.
        sums: Added to, ``int64[E]``.
        score: Votes on negative and positive examples, added to, ``int64[2]``.
    """
    for i in range(count):
        addresses[i] = cells[addresses[i]]
    add_votes(addresses, first, count, kind, votes, table, n_levels, positives, sums, score)


@compiled
def read_others(
    cells: Any, addresses: Any, first: int, offset: int, count: int, kind: int, votes: Any,
    table: Any, n_levels: Any, positives: Any, key: Any, threshold: Any, sums: Any, score: Any,
) -> None:  # fmt: skip
    """Do the same as :func:`read_cells` with each example left out of its own cell.

    The examples are training examples from ``first`` on; among those read they start at
    ``first - offset``, and ``positives`` goes by that.
    """
    for i in range(count):
        cell = cells[addresses[i]]
        if not threshold or mix(key + U(first + i)) < threshold:
            cell -= U(1) + (U(positives[first - offset + i]) << _HALF)
        addresses[i] = cell
    add_votes(
        addresses, first - offset, count, kind, votes, table, n_levels, positives, sums, score
    )


@compiled
def add_votes(
    cells: Any, first: int, count: int, kind: int, votes: Any, table: Any, n_levels: Any,
    positives: Any, sums: Any, score: Any,
) -> None:  # fmt: skip
    """Add what ``count`` cells vote, one per example from ``first`` on; ``cells`` is used up."""
    values = cells.view(np.int64)[:count]
    votes_of_cells(cells, count, kind, votes, table, n_levels, values)
    total, of_positives = 0, 0
    here, signs = sums[first : first + count], positives[first : first + count]
    for i in range(len(values)):
        here[i] += values[i]
        total += values[i]
        of_positives += values[i] & -np.int64(signs[i])
    score[0] += total - of_positives
    score[1] += of_positives
