"""What a moved neuron would cost: the loss of refinement, compiled; see :mod:`loss`."""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.jit import leading_zeros
from optuna_wnn.evaluators.loss import LOG_BITS
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import SCORE_LIMIT
from optuna_wnn.evaluators.loss import SCORE_STEPS


U = np.uint64
_PER_STEP: Final = NAT // SCORE_STEPS
_LOG_MASK: Final = U((1 << LOG_BITS) - 1)


class Wiring(NamedTuple):
    """The clusters that are refined: ``K`` of them with ``N`` neurons in all.

    Attributes:
        starts: First neuron of each cluster, and the end, ``int64[K + 1]``.
        bits: Bits per neuron of each cluster, ``int64[K]``.
        visible: How many inputs each cluster may observe, ``int64[K]``.
        observed: The inputs of each neuron, ascending, ``int32[N, most bits]``.
        votes: What each neuron votes on each example read, in 32 bits, ``int32[N, V]``.
        sums: Their sums, ``int64[K, V]``.
        positives: Which examples read are positive, ``uint8[K, V]``.
        trained: Which training examples are, a bit each, ``uint64[K, ceil(E / 64)]``.
        tried: Room for what a moved neuron votes, ``int32[V]``.
        tried_sums: Room for the sums with it, ``int64[V]``.
    """

    starts: NDArray[np.int64]
    bits: NDArray[np.int64]
    visible: NDArray[np.int64]
    observed: NDArray[np.int32]
    votes: NDArray[np.int32]
    sums: NDArray[np.int64]
    positives: NDArray[np.uint8]
    trained: NDArray[np.uint64]
    tried: NDArray[np.int32]
    tried_sums: NDArray[np.int64]


class Scale(NamedTuple):
    """How a sum becomes a whole number of steps; see ``Quantiser``."""

    packed: bool
    factor: float
    divisor: float


class BitTables(NamedTuple):
    """The loss of one bit; see ``BitLoss``."""

    scale: Scale
    offset: int
    losses: NDArray[np.int32]


class ClassTables(NamedTuple):
    """The loss of the softmax; see ``ClassesLoss``.

    Attributes:
        scale: From a cluster's sum to its score.
        exp: ``exp`` of relative scores.
        zero: Where ``exp(0)`` is.
        whole: Logarithms of powers of two.
        rest: Logarithms of leading bits.
        targets: ``int64[V]``.
        scores: ``int32[K, V]``.
        reference: What scores are relative to, ``int32[V]``.
        mass: Sum of ``exp`` over classes, ``int64[V]``.
        places: Where in ``exp`` the target's relative score would be, ``int32[V]``.
        tried: Room for a class's scores, ``int32[V]``.
        room: More of it.
    """

    scale: Scale
    exp: NDArray[np.int64]
    zero: int
    whole: NDArray[np.int32]
    rest: NDArray[np.int32]
    targets: NDArray[np.int64]
    scores: NDArray[np.int32]
    reference: NDArray[np.int32]
    mass: NDArray[np.int64]
    places: NDArray[np.int32]
    tried: NDArray[np.int32]
    room: NDArray[np.int32]


# Below, loops run over slices from 0 on: an index that cannot be negative needs no check, and
# the loop becomes vector instructions.


@compiled
def copy_into(target: Any, source: Any) -> None:
    """Copy ``source`` to the start of ``target``; compiles faster than an assignment."""
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def exchange_votes(sums: Any, old: Any, new: Any, packed: bool, out: Any) -> None:
    """Write sums in which a neuron's old votes are replaced by new ones."""
    if packed:
        for i in range(len(sums)):
            before, after = np.int64(old[i]), np.int64(new[i])
            numerator = (after >> 16) - (before >> 16)
            weight = (after & 0xFFFF) - (before & 0xFFFF)
            out[i] = sums[i] + (numerator << 32) + weight
    else:
        for i in range(len(sums)):
            out[i] = sums[i] + (np.int64(new[i]) - np.int64(old[i]))


@compiled
def _quantise(
    sums: Any, packed: bool, factor: float, divisor: float, offset: float, top: float, out: Any
) -> None:
    """Write what ``Quantiser`` gives plus ``offset``, kept in ``[0, top]``, as ``int32``."""
    for i in range(len(sums)):
        if packed:
            weight = sums[i] & 0xFFFFFFFF
            weight = weight if weight > 0 else 1  # the numerator is then 0
            value = np.float64(sums[i] >> 32) * factor / np.float64(weight)
        else:
            value = np.float64(sums[i]) / divisor
        steps = np.floor(value + 0.5) + offset
        steps = steps if steps > 0.0 else 0.0
        out[i] = np.int32(steps if steps < top else top)


@compiled
def _bit_losses(steps: Any, positives: Any, losses: Any) -> int:
    """Return the sum of the losses of quantised outputs."""
    last = np.int32(len(losses) - 1)
    for i in range(len(positives)):
        steps[i] = steps[i] if positives[i] else last - steps[i]
    total = 0
    for i in range(len(positives)):
        total += losses[np.uint32(steps[i])]
    return total


@compiled
def try_bit(
    sums: Any, old: Any, new: Any, positives: Any, n_neurons: int, tables: Any, current: int,
    tried_sums: Any,
) -> int:  # fmt: skip
    """Return the loss with a neuron voting ``new`` in place of ``old``.

    Once it is more than ``current``, any number above that may be returned.
    """
    losses, packed = tables.losses, tables.scale.packed
    factor, divisor = tables.scale.factor, tables.scale.divisor * n_neurons
    offset, top = np.float64(tables.offset), np.float64(len(losses) - 1)
    steps = np.empty(RUN, np.int32)
    loss = 0
    for first in range(0, len(new), RUN):
        run = slice(first, first + RUN)
        total = tried_sums[run]
        exchange_votes(sums[run], old[run], new[run], packed, total)
        _quantise(total, packed, factor, divisor, offset, top, steps)
        loss += _bit_losses(steps, positives[run], losses)
        if loss > current:
            return loss
    return loss


@compiled
def _relative(scores: Any, reference: Any, zero: Any, last: Any, out: Any) -> None:
    """Write where in the table of ``exp`` scores are, relative to their references."""
    for i in range(len(scores)):
        place = scores[i] - reference[i] + zero
        place = place if place > 0 else np.int32(0)
        out[i] = place if place < last else last


@compiled
def _class_losses(mass: Any, places: Any, zero: int, whole: Any, rest: Any) -> int:
    """Return the summed loss from each example's mass and its target's place in ``exp``."""
    total = 0
    for i in range(len(mass)):
        number = U(mass[i] if mass[i] > 1 else 1)
        zeros = leading_zeros(number)
        leading = (number << (zeros - U(1))) >> U(62 - LOG_BITS)
        logarithm = np.int64(whole[U(64) - zeros]) + np.int64(rest[leading & _LOG_MASK])
        loss: Any = logarithm - np.int64(places[i] - zero) * _PER_STEP
        total += loss if loss > 0 else 0
    return total


@compiled
def rebase(tables: Any) -> int:
    """Choose the references anew, and return the loss; see ``ClassesLoss``."""
    scores, reference, exp, mass = tables.scores, tables.reference, tables.exp, tables.mass
    targets, places, tried = tables.targets, tables.places, tables.tried
    zero, last = np.int32(tables.zero), np.int32(len(exp) - 1)
    copy_into(reference, scores[0])
    for k in range(1, len(scores)):
        row = scores[k]
        for e in range(len(row)):
            reference[e] = row[e] if row[e] > reference[e] else reference[e]
    mass[:] = 0
    for k in range(len(scores)):
        _relative(scores[k], reference, zero, last, tried)
        for e in range(len(mass)):
            mass[e] += exp[np.uint32(tried[e])]
            place = scores[k, e] - reference[e] + zero
            places[e] = place if targets[e] == k else places[e]
    return _class_losses(mass, places, tables.zero, tables.whole, tables.rest)


@compiled
def score_cluster(sums: Any, n_neurons: int, scale: Any, scores: Any) -> None:
    """Write a cluster's scores, ``int32[V]``, from its sums."""
    limit = np.float64(SCORE_LIMIT)
    divisor = scale.divisor * n_neurons
    _quantise(sums, scale.packed, scale.factor, divisor, limit, 2 * limit, scores)
    for e in range(len(scores)):
        scores[e] -= SCORE_LIMIT


@compiled
def try_class(
    sums: Any, old: Any, new: Any, k: int, n_neurons: int, tables: Any, current: int,
    tried_sums: Any,
) -> int:  # fmt: skip
    """Return the loss with a neuron of cluster ``k`` voting ``new`` in place of ``old``.

    Once it is more than ``current``, any number above that may be returned.
    """
    exp, whole, rest, packed = tables.exp, tables.whole, tables.rest, tables.scale.packed
    zero, last = np.int32(tables.zero), np.int32(len(exp) - 1)
    scores, before, after = tables.scores[k], np.empty(RUN, np.int32), np.empty(RUN, np.int32)
    places, mass = np.empty(RUN, np.int32), np.empty(RUN, np.int64)
    loss = 0
    for first in range(0, len(new), RUN):
        run = slice(first, first + RUN)
        total, tried, reference = tried_sums[run], tables.tried[run], tables.reference[run]
        exchange_votes(sums[run], old[run], new[run], packed, total)
        score_cluster(total, n_neurons, tables.scale, tried)
        _relative(scores[run], reference, zero, last, before)
        _relative(tried, reference, zero, last, after)
        old_mass, targets, old_places = tables.mass[run], tables.targets[run], tables.places[run]
        for i in range(len(tried)):
            moved = tried[i] - reference[i] + zero
            places[i] = moved if targets[i] == k else old_places[i]
            mass[i] = old_mass[i] - exp[np.uint32(before[i])] + exp[np.uint32(after[i])]
        loss += _class_losses(mass[: len(tried)], places, tables.zero, whole, rest)
        if loss > current:
            return loss
    return loss


@compiled
def keep_class(k: int, tables: Any) -> None:
    """Make the move that ``try_class`` looked at the state of the loss."""
    exp, targets, mass, places = tables.exp, tables.targets, tables.mass, tables.places
    zero, last = np.int32(tables.zero), np.int32(len(exp) - 1)
    scores, tried, room = tables.scores[k], tables.tried, tables.room
    reference = tables.reference
    _relative(scores, reference, zero, last, room)
    for i in range(len(mass)):
        mass[i] -= exp[np.uint32(room[i])]
    _relative(tried, reference, zero, last, room)
    for i in range(len(mass)):
        mass[i] += exp[np.uint32(room[i])]
        place = tried[i] - reference[i] + zero
        places[i] = place if targets[i] == k else places[i]
        scores[i] = tried[i]
