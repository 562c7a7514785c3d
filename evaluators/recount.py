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

from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import trailing_zeros
from optuna_wnn.evaluators.kernels import RUN
from optuna_wnn.evaluators.kernels import find_addresses
from optuna_wnn.evaluators.kernels import plan_address
from optuna_wnn.evaluators.kernels import votes_of_cells


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
def _address(inputs: Any, observed: Any, use_pext: bool, addresses: Any) -> None:
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
def _list_cells(counted: Any, n: int) -> None:
    """List the different cells that the examples read address."""
    seen = counted.fresh
    seen[:] = 0
    found = 0
    addresses = counted.read[n]
    for e in range(len(addresses)):
        a = addresses[e]
        if not seen[a]:
            seen[a] = 1
            counted.distinct[n, found] = a
            found += 1
    counted.n_distinct[n] = found


@compiled
def count_neuron(
    counted: Any, n: int, observed: Any, use_pext: bool, train: Any, read: Any, positives: Any,
    read_positives: Any, rule: Any, left_out: bool, votes: Any,
) -> None:  # fmt: skip
    """Address and count everything for neuron ``n``, and let it vote.

    Args:
        counted: Its arrays for neuron ``n`` are filled.
        n: Which neuron.
        observed: Its inputs, ascending.
        use_pext: See :func:`plan_address`.
        train: Packed inputs of the training examples.
        read: Of the examples read.
        positives: Which training examples are positive, ``uint8[E]``.
        read_positives: Which examples read are.
        rule: How cells vote.
        left_out: Whether the training examples are read, each left out of its own cell.
        votes: What the neuron votes, ``int32[V]``.
    """
    for j in range(len(observed)):
        counted.slots[n, j] = j
    addresses = counted.train[n]
    _address(train, observed, use_pext, addresses)
    if not left_out:
        _address(read, observed, use_pext, counted.read[n])
    cells = counted.cells[counted.starts[n] : counted.starts[n + 1]]
    for e in range(len(addresses)):
        cells[addresses[e]] += U(1) + (U(positives[e]) << _HALF)
    _list_cells(counted, n)
    found = np.empty(RUN, np.uint64)
    values = found.view(np.int64)
    for first in range(0, len(votes), RUN):
        run = counted.read[n][first : first + RUN]
        for i in range(len(run)):
            found[i] = cells[run[i]]
            if left_out:
                found[i] -= U(1) + (U(read_positives[first + i]) << _HALF)
        votes_of_cells(found, len(run), rule.kind, rule.votes, rule.table, rule.n_levels, values)
        for i in range(len(run)):
            votes[first + i] = compact_vote(values[i], rule.packed)


@compiled
def count_rarer(counted: Any, n: int, slot: Any, train: Any, positives: Any, input_: int) -> bool:
    """Count the examples where an input has its rarer value, by the other address bits.

    The counts go to ``counted.fresh``, at addresses without bit ``slot``.

    Returns:
        Whether the rarer value is 0.
    """
    fresh = counted.fresh
    cells = counted.starts[n + 1] - counted.starts[n]
    fresh[:cells] = U(0)
    addresses = counted.train[n]
    keep = ~(U(1) << slot)
    plane = train.words[input_]
    inverted = 2 * train.ones[input_] > train.size
    flip = U(0) - U(inverted)
    n_words = (train.size + 63) // 64
    for unit in range(n_words):
        word = plane[unit] ^ flip
        if inverted and unit == n_words - 1 and train.size % 64:
            word &= (U(1) << U(train.size % 64)) - U(1)
        positive = positives[unit]
        first = U(64 * unit)
        while word:
            i = trailing_zeros(word)
            word &= word - U(1)
            fresh[U(addresses[first + i]) & keep] += U(1) + (((positive >> i) & U(1)) << _HALF)
    return inverted


@compiled
def compact_vote(vote: Any, packed: bool) -> Any:
    """Return a vote in 32 bits: where packed, the numerator over 16 bits of weight."""
    if packed:
        return np.int32(((vote >> 32) << 16) | (vote & 0xFFFF))
    return np.int32(vote)


@compiled
def _new_pair(counted: Any, n: int, base: Any, bit: Any, inverted: bool) -> Any:
    """Return the counts of the two cells at ``base`` if the new input were 0, and 1."""
    start = U(counted.starts[n])
    both = counted.cells[start + base] + counted.cells[start + (base | bit)]
    rarer = counted.fresh[base]
    if inverted:
        return rarer, both - rarer
    return both - rarer, rarer


@compiled
def _without(cell: Any, positive: Any) -> Any:
    """Return a cell's counts without one example, if it has one of that kind."""
    count = cell >> _HALF
    if not positive:
        count = (cell & _SEEN) - count
    return cell - (U(1) + (positive << _HALF)) if count else cell


@compiled
def fill_ballots(
    counted: Any, n: int, slot: Any, inverted: bool, rule: Any, left_out: bool
) -> None:
    """Write what the cells that are read would vote to ``counted.ballots``.

    At twice the address plus the example's own sign where examples are left out, else at the
    address.
    """
    bit = U(1) << slot
    per_cell = 2 if left_out else 1
    found = np.empty(RUN, np.uint64)
    values = found.view(np.int64)
    places = np.empty(RUN, np.uint64)
    distinct = counted.distinct[n]
    size = counted.n_distinct[n]
    stride = RUN // (2 * per_cell)
    for first in range(0, size, stride):
        count = min(stride, size - first)
        k = 0
        for i in range(count):
            base = U(distinct[first + i]) & ~bit
            zero, one = _new_pair(counted, n, base, bit, inverted)
            if left_out:
                places[k], found[k] = U(2) * base, _without(zero, U(0))
                places[k + 1], found[k + 1] = U(2) * base + U(1), _without(zero, U(1))
                places[k + 2], found[k + 2] = U(2) * (base | bit), _without(one, U(0))
                places[k + 3], found[k + 3] = U(2) * (base | bit) + U(1), _without(one, U(1))
                k += 4
            else:
                places[k], found[k] = base, zero
                places[k + 1], found[k + 1] = base | bit, one
                k += 2
        votes_of_cells(found, k, rule.kind, rule.votes, rule.table, rule.n_levels, values)
        for i in range(k):
            counted.ballots[places[i]] = compact_vote(values[i], rule.packed)


@compiled
def read_ballots(
    counted: Any, n: int, slot: Any, read: Any, input_: int, positives: Any, left_out: bool,
    votes: Any,
) -> None:  # fmt: skip
    """Write what every example read would get to ``votes``, ``int32[V]``."""
    plane = read.words[input_]
    addresses = np.empty(64, np.uint32)
    for unit in range(len(plane)):
        run = slice(64 * unit, min(64 * unit + 64, read.size))
        _move_bit(counted.read[n][run], slot, plane[unit], addresses)
        out = votes[run]
        if left_out:
            signs = positives[run]
            for i in range(len(out)):
                out[i] = counted.ballots[np.uint32(2) * addresses[i] + np.uint32(signs[i])]
        else:
            for i in range(len(out)):
                out[i] = counted.ballots[addresses[i]]


@compiled
def _move_bit(addresses: Any, slot: Any, word: Any, out: Any) -> None:
    """Write up to 64 addresses whose bit ``slot`` is replaced by the bits of ``word``."""
    keep = np.uint32(~(U(1) << slot))
    for i in range(len(addresses)):
        out[i] = (addresses[i] & keep) | np.uint32(((word >> U(i)) & U(1)) << slot)


@compiled
def _readdress(addresses: Any, slot: Any, planes: Any, input_: int) -> None:
    plane = planes.words[input_]
    for unit in range(len(plane)):
        run = addresses[64 * unit : min(64 * unit + 64, planes.size)]
        _move_bit(run, slot, plane[unit], run)


@compiled
def keep_counts(
    counted: Any, n: int, slot: Any, inverted: bool, train: Any, read: Any, input_: int,
    left_out: bool,
) -> None:  # fmt: skip
    """Make the move that ``count_rarer`` looked at the neuron's state."""
    bit = U(1) << slot
    start = U(counted.starts[n])
    cells = U(counted.starts[n + 1]) - start
    for upper in range(U(0), cells, bit + bit):
        for base in range(upper, upper + bit):
            zero, one = _new_pair(counted, n, base, bit, inverted)
            counted.cells[start + base] = zero
            counted.cells[start + (base | bit)] = one
    _readdress(counted.train[n], slot, train, input_)
    if not left_out:
        _readdress(counted.read[n], slot, read, input_)
    _list_cells(counted, n)
