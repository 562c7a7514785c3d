"""What a moved neuron would cost: the loss of refinement, compiled; see :mod:`loss`."""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cpu_kernels import RUN
from optuna_wnn.evaluators.informed import PIECE
from optuna_wnn.evaluators.informed import SAMPLED
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.loss import LOG_BITS
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import SCORE_LIMIT
from optuna_wnn.evaluators.loss import SCORE_STEPS
from optuna_wnn.evaluators.loss import Quantiser
from optuna_wnn.evaluators.loss import exp_table
from optuna_wnn.evaluators.loss import log_tables


U = np.uint64
_PER_STEP: Final = np.int32(NAT // SCORE_STEPS)
_FLOAT_BITS: Final = 52  # of a float64 after the first
_FLOAT_ONE: Final = 1023 << LOG_BITS  # the leading bits of 1.0 as a float64
_EXACT: Final = 1 << 53  # below it every integer is a float64
_ROUGH: Final = ~1023  # what is left of a number below 2**62 then is one too


class Scale(NamedTuple):
    """How a sum becomes a whole number of steps; see ``Quantiser``."""

    packed: bool
    factor: float
    divisor: float

    @classmethod
    def of(cls, quantiser: Quantiser) -> Scale:
        """Return the same, as compiled code takes it."""
        return cls(quantiser.packed, quantiser.factor, quantiser.divisor)


class Bit(NamedTuple):
    """The loss of one bit; see ``BitLoss``.

    Attributes:
        scale: From a sum of votes to steps.
        offset: What makes them not negative.
        losses: The loss of a bit that is 1, by steps, ``int32[L]``.
    """

    scale: Scale
    offset: int
    losses: NDArray[np.int32]


class Softmax(NamedTuple):
    """The loss of the softmax over all clusters; see ``ClassesLoss``.

    Attributes:
        scale: From a sum of votes to scores.
        exp: ``exp`` of relative scores.
        zero: Where ``exp(0)`` is.
        logarithms: By the leading bits of a mass from its bit length on, ``int32``.
        reference: What scores are relative to, ``int32[V]``.
        shares: ``exp`` of every class's relative scores, ``int64[K, V]``.
        mass: Their sums over classes, ``int64[V]``.
        places: Where in ``exp`` the target's relative score would be, ``int32[V]``.
    """

    scale: Scale
    exp: NDArray[np.int64]
    zero: np.int32
    logarithms: NDArray[np.int32]
    reference: NDArray[np.int32]
    shares: NDArray[np.int64]
    mass: NDArray[np.int64]
    places: NDArray[np.int32]


class Room(NamedTuple):
    """What one thread needs to judge up to ``RUN`` examples at a time.

    Attributes:
        totals: Sums of votes, ``int64[RUN]``.
        steps: Steps or scores, ``int32[RUN]``.
        places: Where in ``exp`` the target would be, ``int32[RUN]``.
        mass: ``float64[RUN]``.
        small_mass: ``int32[RUN]``; see :mod:`small`.
        leading: ``float32[RUN]``; see there.
        cells: Addresses, ``uint32[RUN]``.
    """

    totals: NDArray[np.int64]
    steps: NDArray[np.int32]
    places: NDArray[np.int32]
    mass: NDArray[np.float64]
    small_mass: NDArray[np.int32]
    leading: NDArray[np.float32]
    cells: NDArray[np.uint32]


def make_room() -> Room:
    """Return room for one thread."""
    return Room(
        totals=np.zeros(RUN, np.int64),
        steps=np.zeros(RUN, np.int32),
        places=np.zeros(RUN, np.int32),
        mass=np.zeros(RUN, np.float64),
        small_mass=np.zeros(RUN, np.int32),
        leading=np.zeros(RUN, np.float32),
        cells=np.zeros(RUN, np.uint32),
    )


def make_softmax(cells: Cells, temperature: float, n_classes: int, n_read: int) -> Softmax:
    """Return the loss of the softmax before its references are chosen; see :func:`rebase`."""
    exp, zero = exp_table(n_classes)
    return Softmax(
        scale=Scale.of(Quantiser.of(cells, SCORE_STEPS / temperature)),
        exp=exp,
        zero=np.int32(zero),
        logarithms=join_logarithms(*log_tables()),
        reference=np.zeros(n_read, np.int32),
        shares=np.zeros((n_classes, n_read), np.int64),
        mass=np.zeros(n_read, np.int64),
        places=np.zeros(n_read, np.int32),
    )


def join_logarithms(whole: NDArray[np.int32], rest: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return one table of what :func:`loss.log_tables` returns, by bit length and leading bits."""
    return np.asarray(whole[1:63, None] + rest, np.int32).ravel()


# Below, loops run over slices from 0 on: an index that cannot be negative needs no check, and
# the loop becomes vector instructions.


@compiled
def exchange_votes(sums: Any, old: Any, new: Any, packed: bool, out: Any) -> None:
    """Write sums in which a neuron's old votes are replaced by new ones."""
    if packed:
        for i in range(len(old)):
            before, after = np.int64(old[i]), np.int64(new[i])
            numerator = (after >> 16) - (before >> 16)
            weight = (after & 0xFFFF) - (before & 0xFFFF)
            out[i] = sums[i] + (numerator << 32) + weight
    else:
        for i in range(len(old)):
            out[i] = sums[i] + (np.int64(new[i]) - np.int64(old[i]))


@compiled
def _quantise(
    sums: Any, packed: bool, factor: float, divisor: float, offset: float, top: float, out: Any
) -> None:
    """Write what ``Quantiser`` gives plus ``offset``, kept in ``[0, top]``, as ``int32``."""
    if packed:
        for i in range(len(out)):
            weight = sums[i] & 0xFFFFFFFF
            weight = weight if weight > 0 else 1  # the numerator is then 0
            value = np.float64(sums[i] >> 32) * factor / np.float64(weight)
            steps = np.floor(value + 0.5) + offset
            steps = steps if steps > 0.0 else 0.0
            out[i] = np.int32(steps if steps < top else top)
    else:
        for i in range(len(out)):
            steps = np.floor(np.float64(sums[i]) / divisor + 0.5) + offset
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
def _score(sums: Any, packed: bool, factor: float, divisor: float, scores: Any) -> None:
    """Write a class's scores from its sums."""
    limit = np.float64(SCORE_LIMIT)
    _quantise(sums, packed, factor, divisor, limit, 2 * limit, scores)
    for i in range(len(scores)):
        scores[i] -= np.int32(SCORE_LIMIT)


@compiled
def _place(scores: Any, reference: Any, positives: Any, zero: Any, last: Any, places: Any) -> None:
    """Replace scores by where in ``exp`` they are, and so ``places`` of their own examples."""
    for i in range(len(scores)):
        place = scores[i] - reference[i] + zero
        places[i] = place if positives[i] else places[i]
        place = place if place > 0 else np.int32(0)
        scores[i] = place if place < last else last


@compiled
def _add_mass(mass: Any, shares: Any, exp: Any, places: Any, out: Any) -> None:
    """Write masses in which a class's shares are replaced, none below 1."""
    for i in range(len(mass)):
        changed = mass[i] - shares[i] + exp[np.uint32(places[i])]
        changed = changed if changed > 1 else 1
        out[i] = np.float64(changed if changed < _EXACT else changed & _ROUGH)


@compiled
def _class_losses(mass: Any, places: Any, zero: Any, logarithms: Any) -> int:
    """Return the summed loss from each example's mass and its target's place in ``exp``."""
    total = 0
    words = mass.view(np.int64)  # the leading bits of the float are those of the number
    for i in range(len(places)):
        leading = np.uint32((words[i] >> (_FLOAT_BITS - LOG_BITS)) - _FLOAT_ONE)
        loss: Any = np.int64(logarithms[leading]) - np.int64(places[i] - zero) * np.int64(
            _PER_STEP
        )
        total += loss if loss > 0 else 0
    return total


@compiled
def bit_loss(
    bit: Any, n_neurons: int, sums: Any, old: Any, new: Any, positives: Any, room: Any
) -> int:
    """Return the loss of a bit with a neuron voting ``new`` in place of ``old``.

    All arrays are those of up to ``RUN`` examples.
    """
    scale, offset, losses = bit
    low, top = np.float64(offset), np.float64(len(losses) - 1)
    totals, steps = room.totals[: len(new)], room.steps[: len(new)]
    exchange_votes(sums, old, new, scale.packed, totals)
    _quantise(totals, scale.packed, scale.factor, scale.divisor * n_neurons, low, top, steps)
    return _bit_losses(steps, positives, losses)


@compiled
def softmax_loss(
    softmax: Any, k: int, run: Any, n_neurons: int, sums: Any, old: Any, new: Any,
    positives: Any, room: Any,
) -> int:  # fmt: skip
    """Return the loss with a neuron of cluster ``k`` voting ``new`` in place of ``old``.

    All arrays are those of the examples ``run``, up to ``RUN`` of them.
    """
    scale, exp, zero, logarithms, reference, shares, mass, places = softmax
    last, n = np.int32(len(exp) - 1), len(new)
    totals, scores = room.totals[:n], room.steps[:n]
    targets, masses = room.places[:n], room.mass[:n]
    exchange_votes(sums, old, new, scale.packed, totals)
    _score(totals, scale.packed, scale.factor, scale.divisor * n_neurons, scores)
    copy_into(targets, places[run])
    _place(scores, reference[run], positives, zero, last, targets)
    _add_mass(mass[run], shares[k, run], exp, scores, masses)
    return _class_losses(masses, targets, zero, logarithms)


@compiled
def copy_into(target: Any, source: Any) -> None:
    """Copy ``source`` to the start of ``target``; compiles faster than an assignment."""
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def keep_score(softmax: Any, k: int, n_neurons: int, sums: Any, positives: Any, room: Any) -> None:
    """Let cluster ``k`` have other sums in the softmax."""
    scale, exp, zero, _, references, all_shares, all_mass, all_places = softmax
    packed, factor, divisor = scale.packed, scale.factor, scale.divisor * n_neurons
    last = np.int32(len(exp) - 1)
    for first in range(0, len(sums), RUN):
        run = slice(first, first + RUN)
        mass, shares = all_mass[run], all_shares[k, run]
        scores = room.steps[: len(mass)]
        _score(sums[run], packed, factor, divisor, scores)
        _place(scores, references[run], positives[run], zero, last, all_places[run])
        for i in range(len(mass)):
            share = exp[np.uint32(scores[i])]
            mass[i] += share - shares[i]
            shares[i] = share


@compiled
def rebase(softmax: Any, neurons: Any, sums: Any, positives: Any, room: Any, current: Any) -> None:
    """Choose the references of the softmax anew, and write its loss; see ``ClassesLoss``.

    Args:
        softmax: Changed.
        neurons: Of every cluster, ``int64[K]``.
        sums: Of every cluster's votes, ``int64[K, V]``.
        positives: Which examples are positive, ``uint8[K, V]``.
        room: Changed.
        current: The loss on the sample and on the other examples, ``int64[2]``.
    """
    scale, exp, zero, logarithms, references, all_shares, all_mass, all_places = softmax
    packed, factor, last = scale.packed, scale.factor, np.int32(len(exp) - 1)
    divisors = scale.divisor * neurons
    current[:] = 0
    for first in range(0, len(all_mass), PIECE):
        run = slice(first, first + PIECE)
        reference, mass, places = references[run], all_mass[run], all_places[run]
        scores, masses = room.steps[: len(mass)], room.mass[: len(mass)]
        for k in range(len(divisors)):
            _score(sums[k, run], packed, factor, divisors[k], scores)
            for i in range(len(scores)):
                higher = k == 0 or scores[i] > reference[i]
                reference[i] = scores[i] if higher else reference[i]
        mass[:] = 0
        for k in range(len(divisors)):
            _score(sums[k, run], packed, factor, divisors[k], scores)
            _place(scores, reference, positives[k, run], zero, last, places)
            shares = all_shares[k, run]
            shares[:] = 0
            _add_mass(mass, shares, exp, scores, masses)
            for i in range(len(mass)):
                shares[i] = exp[np.uint32(scores[i])]
                mass[i] += shares[i]
        part = 0 if first // PIECE % SAMPLED == 0 else 1
        current[part] += _class_losses(masses, places, zero, logarithms)


@compiled
def score_votes(votes: Any, positives: Any, packed: bool, scores: Any) -> None:
    """Write a neuron's summed votes on negative and on positive examples, ``int64[2]``."""
    numerators, weights = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for i in range(len(votes)):
        vote, sign = np.int64(votes[i]), np.int64(positives[i])
        if packed:
            numerators[sign] += vote >> 16
            weights[sign] += vote & 0xFFFF
        else:
            weights[sign] += vote
    for which in range(2):
        scores[which] = (numerators[which] << 32) + weights[which]
