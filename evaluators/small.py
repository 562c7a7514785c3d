"""The softmax's loss in 32 bits, where scores and masses are small; the same to the last bit."""

from __future__ import annotations

from typing import Any
from typing import Final
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.jit import compiled
from optuna_wnn.evaluators.judge import Softmax
from optuna_wnn.evaluators.loss import LOG_BITS
from optuna_wnn.evaluators.loss import NAT
from optuna_wnn.evaluators.loss import SCORE_STEPS


TOO_LARGE: Final = -1  # in place of a loss
_LARGEST_SCORE: Final = 1 << 16
_LARGEST_MASS: Final = 1 << 30
_SHORT: Final = 2**-30  # more than a product falls short of a quotient
_LEAST_DIVISOR: Final = 4  # two sums beside a change are then within half a score
_PER_STEP: Final = np.int32(NAT // SCORE_STEPS)
_FLOAT_BITS: Final = 23  # of a float32 after the first
_FLOAT_ONE: Final = 127 << LOG_BITS  # the leading bits of 1.0 as a float32
_EXACT: Final = np.int32(1 << 24)  # below it every integer is a float32
_ROUGH: Final = np.int32(~127)  # what is left of a number below 2**31 then is one too


class Small(NamedTuple):
    """How scores come from sums by a product instead of a quotient.

    Attributes:
        inverses: What each class's sums are multiplied by, ``float64[K]``.
        offset: What is added before the fraction is cut off.
        shift: Added to a score, less its reference, to get its place in ``exp``.
        exp: As in ``Softmax``, but no more than ``_LARGEST_MASS``, ``int32``.
    """

    inverses: NDArray[np.float64]
    offset: float
    shift: np.int32
    exp: NDArray[np.int32]


def make_small(cells: Cells, softmax: Softmax, neurons: NDArray[np.int64]) -> Small | None:
    """Return what the loss in 32 bits needs, or ``None`` where it might be another.

    Args:
        cells: How they vote.
        softmax: The loss in 64 bits.
        neurons: Of every class, ``int64[K]``.
    """
    if cells.packed:
        return None
    divisors = softmax.scale.divisor * neurons
    votes = np.concatenate([cells.votes, cells.table, [cells.scale]])
    most = int(np.abs(votes).max() / softmax.scale.divisor) + 3
    if most > _LARGEST_SCORE or divisors.min() < _LEAST_DIVISOR:
        return None
    inverses = 1 / divisors
    offset = most + 0.5 + _SHORT
    for divisor, inverse in set(zip(divisors.tolist(), inverses.tolist(), strict=True)):
        if not _alike(divisor, inverse, offset, most):
            return None
    exp = np.minimum(softmax.exp, _LARGEST_MASS).astype(np.int32)
    return Small(inverses, offset, np.int32(softmax.zero - most), exp)


def _alike(divisor: float, inverse: float, offset: float, most: int) -> bool:
    """Return whether the product gives every score up to ``most`` as the quotient does.

    Neither falls where sums rise. So they are alike if they are just before and after every sum
    from which on the score is another.
    """
    steps = np.arange(1 - most, most)
    sums = np.rint((steps - 0.5) * divisor)[:, None] + np.arange(-2, 3)
    quotients = np.floor(sums / divisor + 0.5)
    changes = np.stack([quotients[:, 0] < steps, quotients[:, -1] >= steps])
    return bool(changes.all() and (np.trunc(sums * inverse + offset) - most == quotients).all())


@compiled
def _place_scores(
    sums: Any, old: Any, new: Any, first: Any, size: Any, inverse: float, offset: float,
    shift: Any, reference: Any, positives: Any, places: Any, last: Any, scores: Any, targets: Any,
) -> None:  # fmt: skip
    """Write where in ``exp`` a class's scores would be, and so the targets'."""
    for i in range(size):
        total = sums[first + i] + (new[first + i] - old[first + i])
        score = np.int32(np.float64(np.int32(total)) * inverse + offset)
        place = np.int32(score - reference[first + i] + shift)
        targets[i] = place if positives[first + i] else places[first + i]
        place = place if place > 0 else np.int32(0)
        scores[i] = place if place < last else last


@compiled
def _add_small_mass(
    mass: Any, shares: Any, first: Any, size: Any, exp: Any, scores: Any, out: Any
) -> Any:
    """Write masses in which a class's shares are replaced; return whether all are small."""
    before: Any = np.int64(0)
    most: Any = np.int32(0)
    for i in range(size):
        before |= mass[first + i]
        out[i] = np.int32(mass[first + i] - shares[first + i] + exp[np.uint32(scores[i])])
        most = out[i] if out[i] > most else most
    return before < _LARGEST_MASS and most < _LARGEST_MASS


@compiled
def _small_losses(
    mass: Any, size: Any, targets: Any, zero: Any, logarithms: Any, leading: Any
) -> Any:
    """Return the summed loss from each example's mass and its target's place in ``exp``."""
    for i in range(size):
        # Rounding to a float must not reach the leading bits.
        exact = np.int32(mass[i] if mass[i] < _EXACT else mass[i] & _ROUGH)
        leading[i] = np.float32(exact if exact > 0 else np.int32(1))
    words = leading.view(np.uint32)
    total: Any = 0
    for i in range(size):
        place = np.uint32((words[i] >> np.uint32(_FLOAT_BITS - LOG_BITS)) - np.uint32(_FLOAT_ONE))
        loss = np.int32(logarithms[place] - (targets[i] - zero) * _PER_STEP)
        total += loss if loss > 0 else np.int32(0)
    return total


@compiled
def small_loss(
    small: Any, softmax: Any, k: Any, first: Any, size: Any, sums: Any, old: Any, new: Any,
    positives: Any, room: Any,
) -> Any:  # fmt: skip
    """Return what :func:`softmax_loss` returns of up to ``RUN`` examples, or ``TOO_LARGE``.

    Args:
        small: See there.
        softmax: See there.
        k: The moved neuron's class.
        first: The first example, ``uint64``.
        size: How many there are, ``uint64``.
        sums: Of its class's votes on all examples, ``int32[V]``.
        old: Its votes before the move on all examples.
        new: The same after it.
        positives: Which of all examples are positive.
        room: For this thread.
    """
    inverses, offset, shift, exp = small
    scores, targets, mass = room.steps, room.places, room.small_mass
    last = np.int32(len(exp) - 1)
    _place_scores(
        sums, old, new, first, size, inverses[k], offset, shift, softmax.reference, positives,
        softmax.places, last, scores, targets,
    )  # fmt: skip
    shares = softmax.shares[k]
    if not _add_small_mass(softmax.mass, shares, first, size, exp, scores, mass):
        return TOO_LARGE
    return _small_losses(mass, size, targets, softmax.zero, softmax.logarithms, room.leading)
