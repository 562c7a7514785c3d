"""What a neuron would vote after one of its connections moved, without training it anew.

Exchanging one address bit merges each pair of cells that differ in it, and splits the merged
cells by the new input. So only the examples where the new input has its rarer value are counted;
the rest follows by subtraction. Works for cells that count, in dense tables.
"""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import find_addresses
from optuna_wnn.evaluators.cpu_kernels import plan_address
from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import trailing_zeros


U = np.uint64
_HALF: Final = U(32)
_SEEN: Final = U(0xFFFFFFFF)


class Rule(NamedTuple):
    """How cells vote, as compiled code takes it; see ``Cells``.

    Attributes:
        kind: See ``KINDS``.
        votes: Vote by state.
        table: Vote by levels.
        n_levels: Levels of each count, ``uint64``.
        packed: Whether votes are packed.
    """

    kind: int
    votes: NDArray[np.int64]
    table: NDArray[np.int64]
    n_levels: np.uint64
    packed: bool


class Planes(NamedTuple):
    """Examples, an input at a time.

    Attributes:
        words: Input ``i`` of example ``e`` is bit ``e % 64`` of ``words[i, e // 64]``, ``uint64``.
        ones: How many examples have each input set, ``int64[B]``.
        size: How many examples there are.
    """

    words: NDArray[np.uint64]
    ones: NDArray[np.int64]
    size: int


class Counted(NamedTuple):
    """What is kept of neurons so that a move is cheap; ``N`` neurons of any clusters.

    Attributes:
        slots: Which address bit each connection drives, ``int32[N, most bits]``.
        train: The cell each training example addresses, ``uint8``, ``uint16`` or
            ``uint32[N, E]``.
        read: The cell each example read addresses, ``[N, V]``; ``train`` itself where the
            training examples are read.
        starts: Where each neuron's cells begin, ``int64[N + 1]``.
        cells: Their counts, ``uint64[all cells]``.
        distinct: The different cells in ``read``, ``uint32[N, D]``.
        n_distinct: How many those are, ``int64[N]``.
        fresh: Room for the counts of one neuron, ``uint64[most cells]``.
        ballots: Room for the votes of one neuron, ``int32[2 * most cells]``.
    """

    slots: NDArray[np.int32]
    train: Any
    read: Any
    starts: NDArray[np.int64]
    cells: NDArray[np.uint64]
    distinct: NDArray[np.uint32]
    n_distinct: NDArray[np.int64]
    fresh: NDArray[np.uint64]
    ballots: NDArray[np.int32]


@compiled
def fill_planes(inputs: Any, words: Any, ones: Any) -> None:
    """Turn packed inputs, ``uint64[E, ceil(B / 64)]``, into ``Planes``; both start as zeros."""
    n_inputs = len(words)
    for e in range(len(inputs)):
        word, bit = e // 64, U(e % 64)
        for unit in range(inputs.shape[1]):
            left = inputs[e, unit]
            while left:
                i = 64 * unit + np.int64(trailing_zeros(left))
                left &= left - U(1)
                if i < n_inputs:
                    words[i, word] |= U(1) << bit
                    ones[i] += 1


@compiled
def find_all_addresses(inputs: Any, observed: Any, use_pext: bool, addresses: Any) -> None:
    """Write the addresses of all examples, from their packed inputs."""
    n_bits = len(observed)
    steps = np.empty((n_bits, 3), np.uint64)
    luts = np.empty((0 if use_pext else n_bits, 256), np.uint64)
    n_steps = plan_address(observed, 0, n_bits, use_pext, steps, luts)
    found = np.empty(RUN, np.uint64)
    for first in range(0, len(inputs), RUN):
        run = addresses[first : first + RUN]
        find_addresses(inputs, first, len(run), use_pext, n_steps, steps, luts, found)
        for i in range(len(run)):
            run[i] = found[i]


@compiled
def count_all(addresses: Any, positives: Any, cells: Any) -> None:
    """Count training examples, ``positives`` being ``uint8[E]``; ``cells`` start as zeros."""
    for e in range(len(addresses)):
        cells[addresses[e]] += U(1) + (U(positives[e]) << _HALF)


@compiled
def list_cells(addresses: Any, seen: Any, cells: Any) -> int:
    """Write the different addresses to ``cells``; say how many. ``seen`` is room."""
    seen[:] = U(0)
    found = 0
    for e in range(len(addresses)):
        a = addresses[e]
        if not seen[a]:
            seen[a] = U(1)
            cells[found] = a
            found += 1
    return found


@compiled
def read_all(
    cells: Any, addresses: Any, positives: Any, left_out: bool, rule: Any, votes: Any
) -> None:
    """Write what a neuron votes on every example read to ``votes``, ``int32[V]``."""
    found = np.empty(RUN, np.uint64)
    values = found.view(np.int64)
    for first in range(0, len(votes), RUN):
        run, signs = addresses[first : first + RUN], positives[first : first + RUN]
        for i in range(len(run)):
            found[i] = cells[run[i]]
            if left_out:
                found[i] -= U(1) + (U(signs[i]) << _HALF)
        votes_of_cells(found, len(run), rule.kind, rule.votes, rule.table, rule.n_levels, values)
        compact_votes(values[: len(run)], rule.packed, votes[first : first + RUN])


@compiled
def compact_votes(values: Any, packed: bool, votes: Any) -> None:
    """Write votes in 32 bits: where packed, the numerator over 16 bits of weight."""
    for i in range(len(values)):
        vote = values[i]
        votes[i] = np.int32(((vote >> 32) << 16) | (vote & 0xFFFF) if packed else vote)


@compiled
def count_rarer(
    addresses: Any, slot: Any, plane: Any, inverted: bool, positives: Any, fresh: Any
) -> None:
    """Count the examples where an input has its rarer value, by the other address bits.

    Args:
        addresses: Of all training examples.
        slot: The address bit that is to be exchanged, ``uint64``.
        plane: The new input of all training examples, a bit each.
        inverted: Whether its rarer value is 0.
        positives: Which training examples are positive, a bit each.
        fresh: The counts, at addresses without bit ``slot``; one per cell.
    """
    fresh[:] = U(0)
    keep = ~(U(1) << slot)
    flip = U(0) - U(inverted)
    for unit in range(len(plane)):
        word = plane[unit] ^ flip
        first = U(64 * unit)
        if inverted and U(len(addresses)) - first < U(64):
            word &= (U(1) << (U(len(addresses)) - first)) - U(1)
        positive = positives[unit]
        while word:
            i = trailing_zeros(word)
            word &= word - U(1)
            fresh[U(addresses[first + i]) & keep] += U(1) + (((positive >> i) & U(1)) << _HALF)


@compiled
def _without(cell: Any, positive: Any) -> Any:
    """Return a cell's counts without one example, if it has one of that kind."""
    count = cell >> _HALF
    if not positive:
        count = (cell & _SEEN) - count
    return cell - (U(1) + (positive << _HALF)) if count else cell


@compiled
def fill_ballots(
    cells: Any, fresh: Any, distinct: Any, slot: Any, inverted: bool, rule: Any, left_out: bool,
    ballots: Any,
) -> None:  # fmt: skip
    """Write what the cells that are read would vote to ``ballots``.

    At twice the address plus the example's own sign where examples are left out, else at the
    address.

    Args:
        cells: The neuron's counts.
        fresh: What :func:`count_rarer` found.
        distinct: The cells that are read now.
        slot: The address bit that is exchanged.
        inverted: Whether the examples counted have the new input 0.
        rule: How cells vote.
        left_out: Whether each example is left out of its own cell.
        ballots: ``int32[cells, or twice as many]``.
    """
    bit = U(1) << slot
    found = np.empty(RUN, np.uint64)
    values = found.view(np.int64)
    places = np.empty(RUN, np.uint64)
    votes = np.empty(RUN, np.int32)
    for first in range(0, len(distinct), RUN // 4):
        run = distinct[first : first + RUN // 4]
        k = 0
        for i in range(len(run)):
            zero_at = U(run[i]) & ~bit
            one_at = zero_at | bit
            rarer = fresh[zero_at]
            commoner = cells[zero_at] + cells[one_at] - rarer
            zero = rarer if inverted else commoner
            one = commoner if inverted else rarer
            if left_out:
                places[k], found[k] = U(2) * zero_at, _without(zero, U(0))
                places[k + 1], found[k + 1] = U(2) * zero_at + U(1), _without(zero, U(1))
                places[k + 2], found[k + 2] = U(2) * one_at, _without(one, U(0))
                places[k + 3], found[k + 3] = U(2) * one_at + U(1), _without(one, U(1))
                k += 4
            else:
                places[k], found[k] = zero_at, zero
                places[k + 1], found[k + 1] = one_at, one
                k += 2
        votes_of_cells(found, k, rule.kind, rule.votes, rule.table, rule.n_levels, values)
        compact_votes(values[:k], rule.packed, votes)
        for i in range(k):
            ballots[places[i]] = votes[i]


@compiled
def read_ballots(
    addresses: Any, slot: Any, plane: Any, ballots: Any, positives: Any, left_out: bool,
    votes: Any,
) -> None:  # fmt: skip
    """Write what every example read would get to ``votes``, ``int32[V]``."""
    moved = np.empty(64, np.uint32)
    for unit in range(len(plane)):
        run = slice(64 * unit, 64 * unit + 64)
        move_bit(addresses[run], slot, plane[unit], moved)
        out = votes[run]
        if left_out:
            signs = positives[run]
            for i in range(len(out)):
                out[i] = ballots[np.uint32(2) * moved[i] + np.uint32(signs[i])]
        else:
            for i in range(len(out)):
                out[i] = ballots[moved[i]]


@compiled
def move_bit(addresses: Any, slot: Any, word: Any, out: Any) -> None:
    """Write up to 64 addresses whose bit ``slot`` is replaced by the bits of ``word``."""
    keep = np.uint32(~(U(1) << slot))
    for i in range(len(addresses)):
        out[i] = (addresses[i] & keep) | np.uint32(((word >> U(i)) & U(1)) << slot)


@compiled
def keep_addresses(addresses: Any, slot: Any, plane: Any) -> None:
    """Let address bit ``slot`` be the input whose ``plane`` is given."""
    moved = np.empty(64, np.uint32)
    for unit in range(len(plane)):
        run = addresses[64 * unit : 64 * unit + 64]
        move_bit(run, slot, plane[unit], moved)
        for i in range(len(run)):
            run[i] = moved[i]


@compiled
def keep_counts(cells: Any, fresh: Any, slot: Any, inverted: bool) -> None:
    """Let the counts be those after the move that ``fresh`` was counted for."""
    bit = 1 << np.int64(slot)
    for upper in range(0, len(cells), 2 * bit):
        zeros, ones = cells[upper : upper + bit], cells[upper + bit : upper + 2 * bit]
        rarer = fresh[upper : upper + bit]
        for i in range(len(zeros)):
            commoner = zeros[i] + ones[i] - rarer[i]
            zeros[i] = rarer[i] if inverted else commoner
            ones[i] = commoner if inverted else rarer[i]
