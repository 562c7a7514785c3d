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

from optuna_wnn.evaluators.cpu_kernels import KINDS
from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.cpu_kernels import find_addresses
from optuna_wnn.evaluators.cpu_kernels import level_of
from optuna_wnn.evaluators.cpu_kernels import plan_address
from optuna_wnn.evaluators.cpu_kernels import votes_of_cells
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import trailing_zeros


U = np.uint64
_HALF: Final = U(32)
_SEEN: Final = U(0xFFFFFFFF)
_POSITIVE: Final = U(0x100000001)  # what a positive example adds to a cell
_FEW: Final = 8  # examples read per cell, above which all cells vote
# The places of a word that have bit 0, 1, ... of their number clear.
_ZERO_AT: Final = np.array(
    [sum(1 << i for i in range(64) if not i >> bit & 1) for bit in range(6)], np.uint64
)
_LEVELS: Final = KINDS["levels"]


class Rule(NamedTuple):
    """How cells vote, as compiled code takes it; see ``Cells``.

    Attributes:
        kind: See ``KINDS``.
        votes: Vote by state.
        table: Vote by levels.
        n_levels: Levels of each count, ``uint64``.
        packed: Whether votes are packed.
        short_table: Vote by levels in 32 bits; see :func:`compact_votes`.
    """

    kind: int
    votes: NDArray[np.int64]
    table: NDArray[np.int64]
    n_levels: np.uint64
    packed: bool
    short_table: NDArray[np.int32]


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
    """What is kept of ``R`` neurons so that a move is cheap; see :class:`Rows`.

    Attributes:
        votes: What each neuron votes on each example read, in 32 bits, ``int32[R, V]``.
        slots: Which address bit each connection drives, ``int32[R, most bits]``.
        train: The cell each training example addresses, ``uint8``, ``uint16`` or
            ``uint32[R, E]``.
        read: The cell each example read addresses, ``[R, V]``; ``train`` itself where the
            training examples are read.
        cells: The neuron's counts, ``uint64[R, most cells]``.
        seen: Which cells any example read addresses, a bit each, ``uint64[R, words]``.
    """

    votes: NDArray[np.int32]
    slots: NDArray[np.int32]
    train: Any
    read: Any
    cells: NDArray[np.uint64]
    seen: NDArray[np.uint64]


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
def mark_cells(addresses: Any, n_cells: int, room: Any, seen: Any) -> None:
    """Mark in ``seen`` which of ``n_cells`` cells are addressed, a bit each.

    Few cells are all marked: looking would take longer than letting all of them vote.

    Args:
        addresses: Of all examples read.
        n_cells: Cells of the neuron.
        room: ``uint64[cells / 8 or more]``.
        seen: ``uint64[words]``.
    """
    n_words = max(1, n_cells // 64)
    if n_cells * _FEW < len(addresses):
        for u in range(n_words):
            seen[u] = ~U(0) if n_cells >= 64 else (U(1) << U(n_cells)) - U(1)
        return
    octets = room[: 8 * n_words]
    octets[:] = U(0)
    flags = octets.view(np.uint8)
    for e in range(len(addresses)):
        flags[addresses[e]] = np.uint8(1)
    for u in range(n_words):
        word = U(0)
        for octet in range(8):  # the product moves the lowest bit of each byte to the top byte
            eight = (octets[8 * u + octet] * U(0x0102040810204080)) >> U(56)
            word |= eight << U(8 * octet)
        seen[u] = word


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
        positive, negative = word & positives[unit], word & ~positives[unit]
        while negative:
            i = trailing_zeros(negative)
            negative &= negative - U(1)
            fresh[U(addresses[first + i]) & keep] += U(1)
        while positive:
            i = trailing_zeros(positive)
            positive &= positive - U(1)
            fresh[U(addresses[first + i]) & keep] += _POSITIVE


@compiled
def _without(cell: Any, positive: bool) -> Any:
    """Return a cell's counts without one example, if it has one of that kind."""
    count = cell >> _HALF if positive else (cell & _SEEN) - (cell >> _HALF)
    return cell - ((_POSITIVE if positive else U(1)) if count else U(0))


@compiled
def _let_pairs_vote(
    cells: Any, fresh: Any, pairs: Any, bit: Any, inverted: bool, kind: int, votes: Any,
    table: Any, n_levels: Any, left_out: bool, places: Any, found: Any, ballots: Any,
) -> None:  # fmt: skip
    """Write what both cells of up to ``RUN // 4`` pairs vote; see :func:`fill_ballots`.

    Args:
        cells: See there.
        fresh: See there.
        pairs: The cells of the pairs whose bit ``bit`` is 0.
        bit: The address bit that is exchanged, as a power of two.
        inverted: See there.
        kind: Of the cells; see ``Rule``.
        votes: See there.
        table: Its short table.
        n_levels: See there.
        left_out: See :func:`fill_ballots`.
        places: Room, ``uint32[RUN]``.
        found: Room, ``uint64[RUN]``.
        ballots: See there.
    """
    n = len(pairs)
    for i in range(n):
        zero_at = pairs[i]
        one_at = zero_at | bit
        rarer = fresh[zero_at]
        commoner = cells[zero_at] + cells[one_at] - rarer
        found[i] = rarer if inverted else commoner
        found[n + i] = commoner if inverted else rarer
    count = 2 * n
    if left_out:
        for i in range(count):
            cell = found[i]
            found[i], found[count + i] = _without(cell, False), _without(cell, True)
        for i in range(n):
            zero, one = np.uint32(pairs[i] << U(1)), np.uint32((pairs[i] | bit) << U(1))
            places[i], places[n + i] = zero, one
            places[count + i], places[count + n + i] = zero | np.uint32(1), one | np.uint32(1)
        count *= 2
    else:
        for i in range(n):
            places[i], places[n + i] = np.uint32(pairs[i]), np.uint32(pairs[i] | bit)
    if kind == _LEVELS:
        for i in range(count):
            positive = found[i] >> _HALF
            negative = (found[i] & _SEEN) - positive
            found[i] = level_of(positive) * n_levels + level_of(negative)
        for i in range(count):
            ballots[places[i]] = table[found[i]]
    else:
        values = found.view(np.int64)
        votes_of_cells(found, count, kind, votes, votes, n_levels, values)
        for i in range(count):
            ballots[places[i]] = np.int32(values[i])


@compiled
def fill_ballots(
    cells: Any, fresh: Any, seen: Any, slot: Any, inverted: bool, rule: Any, left_out: bool,
    ballots: Any,
) -> None:  # fmt: skip
    """Write what the cells that are read would vote to ``ballots``.

    At twice the address plus the example's own sign where examples are left out, else at the
    address.

    Args:
        cells: The neuron's counts.
        fresh: What :func:`count_rarer` found.
        seen: The cells that are read now, a bit each.
        slot: The address bit that is exchanged.
        inverted: Whether the examples counted have the new input 0.
        rule: How cells vote.
        left_out: Whether each example is left out of its own cell.
        ballots: ``int32[cells, or twice as many]``.
    """
    kind, votes, _, n_levels, _, table = rule
    bit = U(1) << slot
    within = _ZERO_AT[slot] if slot < U(6) else ~U(0)
    stride = np.int64(bit >> U(6))
    pairs = np.empty(RUN // 4, np.uint64)
    places = np.empty(RUN, np.uint32)
    found = np.empty(RUN, np.uint64)
    n = 0
    for unit in range(max(1, len(cells) // 64)):
        if unit & stride:
            continue
        word = (seen[unit] | (seen[unit + stride] if stride else seen[unit] >> bit)) & within
        while word:
            pairs[n] = U(64 * unit) + trailing_zeros(word)
            word &= word - U(1)
            n += 1
            if n == len(pairs):
                _let_pairs_vote(
                    cells, fresh, pairs, bit, inverted, kind, votes, table, n_levels, left_out,
                    places, found, ballots,
                )  # fmt: skip
                n = 0
    _let_pairs_vote(
        cells, fresh, pairs[:n], bit, inverted, kind, votes, table, n_levels, left_out, places,
        found, ballots,
    )  # fmt: skip


@compiled
def read_ballots(
    addresses: Any, first: Any, size: Any, slot: Any, plane: Any, ballots: Any, positives: Any,
    left_out: bool, places: Any, votes: Any,
) -> None:  # fmt: skip
    """Write what some examples would get to ``votes``.

    Args:
        addresses: Of all examples, before the move.
        first: The first example, ``uint64``, a multiple of 64.
        size: How many examples there are, ``uint64``; a multiple of 64 unless they are the last.
        slot: The address bit that is exchanged.
        plane: The new input of all examples, a bit each.
        ballots: See :func:`fill_ballots`.
        positives: Which of all examples are positive.
        left_out: See :func:`fill_ballots`.
        places: Room, ``uint32[size or more]``.
        votes: Of all examples.
    """
    # Offsets that cannot be negative instead of slices: a slice counts its owners, which costs
    # more than the few examples of a word.
    place = np.uint32(slot)
    keep = ~(np.uint32(1) << place)
    for start in range(U(0), size, _HALF):  # 32 bits at a time: so the vectors are of 32 bits
        at = first + start
        word = np.uint32(plane[at >> U(6)] >> (at & _HALF))
        for i in range(min(_HALF, size - start)):
            bit = (word >> np.uint32(i)) & np.uint32(1)
            places[start + i] = (np.uint32(addresses[at + i]) & keep) | (bit << place)
    if left_out:
        for i in range(size):
            places[i] = np.uint32(2) * places[i] + np.uint32(positives[first + i])
    for i in range(size):
        votes[first + i] = ballots[places[i]]


@compiled
def keep_addresses(addresses: Any, slot: Any, plane: Any) -> None:
    """Let address bit ``slot`` be the input whose ``plane`` is given."""
    place = np.uint32(slot)
    keep = ~(np.uint32(1) << place)
    for unit in range(len(plane)):
        for half in range(2):  # 32 bits at a time: so the vectors are of 32 bits
            first = 64 * unit + 32 * half
            run = addresses[first : first + 32]
            word = np.uint32(plane[unit] >> U(32 * half))
            for i in range(len(run)):
                bit = (word >> np.uint32(i)) & np.uint32(1)
                run[i] = (run[i] & keep) | (bit << place)


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
