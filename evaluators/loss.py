"""The loss that refinement goes by: integers only, so that every backend keeps the same moves.

An output is quantised, and its loss read from a table in units of 2**-16 nats. One division per
output, in IEEE float64, is the only arithmetic that is not on integers; it is exact to the last
bit everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators.cells import NUMERATOR_SCALE
from optuna_wnn.evaluators.cells import WEIGHT_SCALE
from optuna_wnn.evaluators.cells import Cells
from optuna_wnn.evaluators.cells import unpack
from optuna_wnn.evaluators.heads import LOG_ODDS_LIMIT
from optuna_wnn.evaluators.heads import bit_log_odds
from optuna_wnn.evaluators.heads import cluster_targets
from optuna_wnn.evaluators.heads import softplus
from optuna_wnn.evaluators.informed import in_sample


NAT: Final = 1 << 16  # of a loss
_SHARE_STEPS: Final = 1 << 14  # that an output in [0, 1] is quantised to
_ODDS_STEPS: Final = 512  # per nat of log-odds
_ODDS_RANGE: Final = int(np.ceil(LOG_ODDS_LIMIT * _ODDS_STEPS))

SCORE_STEPS: Final = 256  # per nat of an output over the temperature
SCORE_LIMIT: Final = 1 << 24
REBASE_EVERY: Final = 1024
EXP_BITS: Final = 24  # exp(0) is 2**24
LOG_BITS: Final = 13  # of a number's leading bits that index the table of logarithms


@dataclass(frozen=True)
class Quantiser:
    """From a sum of votes to a whole number of steps: ``floor(value + 1/2)``.

    Attributes:
        packed: Whether votes are packed. If so ``value = numerators * factor / weights`` (0
            where the weights are), else ``value = sums / (divisor * neurons)``.
        factor: See there.
        divisor: See there.
    """

    packed: bool
    factor: float
    divisor: float

    @classmethod
    def of(cls, cells: Cells, steps: float) -> Quantiser:
        """Return what gives ``steps`` per unit of a cluster's output."""
        return cls(cells.packed, steps * (WEIGHT_SCALE / NUMERATOR_SCALE), cells.scale / steps)

    def __call__(self, sums: NDArray[np.int64], n_neurons: int) -> NDArray[np.int64]:
        if self.packed:
            numerators, weights = unpack(sums)
            scaled = numerators * self.factor
            value = np.zeros(len(sums))
            np.divide(scaled, weights, out=value, where=weights > 0)
        else:
            value = sums / (self.divisor * n_neurons)
        steps: NDArray[np.int64] = np.floor(value + 0.5).astype(np.int64)
        return steps


def bit_quantiser(cells: Cells) -> tuple[Quantiser, int]:
    """Return the quantiser of a bit's output, and what makes its results not negative."""
    if cells.log_odds:
        return Quantiser.of(cells, _ODDS_STEPS), _ODDS_RANGE
    return Quantiser.of(cells, _SHARE_STEPS), 0


def bit_loss_table(cells: Cells) -> NDArray[np.int32]:
    """Return the loss of a bit that is 1 by quantised output; reversed, of one that is 0."""
    if cells.log_odds:
        outputs = np.arange(-_ODDS_RANGE, _ODDS_RANGE + 1) / _ODDS_STEPS
    else:
        outputs = np.arange(_SHARE_STEPS + 1) / _SHARE_STEPS
    losses = softplus(-bit_log_odds(outputs, cells.log_odds))
    return np.rint(losses * NAT).astype(np.int32)


class BitLoss:
    """The loss of one bit, summed over examples."""

    def __init__(
        self,
        cells: Cells,
        n_clusters: int,
        cluster: int,
        targets: NDArray[np.int64],
        decided: NDArray[np.bool_] | None = None,
    ) -> None:
        self._quantise, self._offset = bit_quantiser(cells)
        self._table = bit_loss_table(cells)
        self._is_one = cluster_targets("bits", n_clusters, targets, cluster) == 1
        self._decided = decided  # where the bit costs nothing
        self.current = np.zeros(2, np.int64)

    def set_row(self, cluster: int, sums: NDArray[np.int64], n_neurons: int) -> None:
        """Set the cluster's summed votes, ``int64[E]``."""
        self.current = self.of(sums, n_neurons)

    def rebase(self, step: int) -> None:
        """Do nothing: the loss of a bit is relative to nothing."""

    def try_row(
        self, cluster: int, sums: NDArray[np.int64], n_neurons: int, sampled: bool
    ) -> bool:
        """Do what :meth:`ClassesLoss.try_row` does."""
        tried = self.of(sums, n_neurons)
        kept = is_kept(tried, self.current, sampled)
        if kept:
            self.current = tried
        return kept

    def of(self, sums: NDArray[np.int64], n_neurons: int) -> NDArray[np.int64]:
        """Return the loss of a cluster's summed votes, ``int64[E]``.

        Returns:
            The loss on the sample and on the other examples, ``int64[2]``.
        """
        last = len(self._table) - 1
        index = np.clip(self._quantise(sums, n_neurons) + self._offset, 0, last)
        losses = self._table[np.where(self._is_one, index, last - index)]
        if self._decided is not None:
            losses[self._decided] = 0
        return in_parts(losses)


def in_parts(losses: NDArray[Any]) -> NDArray[np.int64]:
    """Return the sum of the losses on the sample and that on the other examples, ``int64[2]``."""
    first = in_sample(len(losses))
    return np.array([losses[first].sum(dtype=np.int64), losses[~first].sum(dtype=np.int64)])


def exp_table(n_classes: int) -> tuple[NDArray[np.int64], int]:
    """Return ``exp(i / 256)`` in units of 2**-24, and the index of ``exp(0)``.

    It starts where the values vanish and ends where ``n_classes`` of them still sum to less
    than 2**62.
    """
    nats_down = EXP_BITS * np.log(2)
    nats_up = (61 - n_classes.bit_length() - EXP_BITS) * np.log(2)
    zero = int(np.ceil(nats_down * SCORE_STEPS)) + 1
    scores = np.arange(-zero, int(nats_up * SCORE_STEPS) + 1) / SCORE_STEPS
    return np.rint(np.exp(scores) * (1 << EXP_BITS)).astype(np.int64), zero


def log_tables() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the logarithms of powers of two and of leading bits, in units of 2**-16 nats.

    The logarithm of ``s`` is ``whole[bit_length(s)] + rest[the LOG_BITS bits after the first]``.
    """
    whole = np.rint((np.arange(64) - 1 - EXP_BITS) * np.log(2) * NAT).astype(np.int32)
    middles = (np.arange(1 << LOG_BITS) + 0.5) / (1 << LOG_BITS)
    return whole, np.rint(np.log1p(middles) * NAT).astype(np.int32)


def is_kept(tried: NDArray[np.int64], current: NDArray[np.int64], sampled: bool) -> bool:
    """Return whether a move is kept: it must not make the loss worse.

    Args:
        tried: The loss after it, on the sample and on the other examples, ``int64[2]``.
        current: The same before it.
        sampled: Whether it must not make the loss on the sample worse either.
    """
    if sampled and tried[0] > current[0]:
        return False
    return bool(tried.sum() <= current.sum())


class ClassesLoss:
    """The cross-entropy of the softmax over all clusters, summed over examples.

    Every score (an output over the temperature) is taken relative to the example's highest, as
    it was when :meth:`rebase` last looked.
    """

    def __init__(
        self, cells: Cells, temperature: float, n_classes: int, targets: NDArray[np.int64]
    ) -> None:
        self._quantise = Quantiser.of(cells, SCORE_STEPS / temperature)
        self._scores = np.zeros((n_classes, len(targets)), np.int64)
        self.targets = targets
        self._exp, self._zero = exp_table(n_classes)
        self._whole, self._rest = log_tables()
        self.reference = np.zeros(len(targets), np.int64)
        self.current = np.zeros(2, np.int64)

    def _score(self, sums: NDArray[np.int64], n_neurons: int) -> NDArray[np.int64]:
        return np.clip(self._quantise(sums, n_neurons), -SCORE_LIMIT, SCORE_LIMIT)

    def set_row(self, cluster: int, sums: NDArray[np.int64], n_neurons: int) -> None:
        """Set a cluster's summed votes, ``int64[E]``."""
        self._scores[cluster] = self._score(sums, n_neurons)

    def rebase(self, step: int) -> None:
        """Choose the references anew; every ``REBASE_EVERY`` steps, from step 0 on."""
        if step % REBASE_EVERY == 0:
            self.reference = self._scores.max(axis=0)
            self.current = self._loss(self._scores)

    def try_row(
        self, cluster: int, sums: NDArray[np.int64], n_neurons: int, sampled: bool
    ) -> bool:
        """Set a cluster's summed votes if the loss becomes no worse; say whether it did.

        Args:
            cluster: Which it is.
            sums: ``int64[E]``.
            n_neurons: How many neurons voted.
            sampled: See :func:`is_kept`.
        """
        scores = self._scores.copy()
        scores[cluster] = self._score(sums, n_neurons)
        tried = self._loss(scores)
        if not is_kept(tried, self.current, sampled):
            return False
        self._scores, self.current = scores, tried
        return True

    def places(self) -> NDArray[np.int64]:
        """Return where in the table of ``exp`` every score would be, ``int64[K, E]``."""
        return self._scores - self.reference + self._zero

    def mass(self) -> NDArray[np.int64]:
        """Return the sum of ``exp`` over all classes, ``int64[E]``."""
        return self._mass(self._scores)

    def _mass(self, scores: NDArray[np.int64]) -> NDArray[np.int64]:
        places = np.clip(scores - self.reference + self._zero, 0, len(self._exp) - 1)
        total: NDArray[np.int64] = self._exp[places].sum(axis=0)
        return total

    def _loss(self, scores: NDArray[np.int64]) -> NDArray[np.int64]:
        mass = np.maximum(self._mass(scores), 1)
        bit_length = _bit_length(mass)
        aligned = (mass << (63 - bit_length)) >> (62 - LOG_BITS)  # from the leading one on
        logarithm = self._whole[bit_length] + self._rest[aligned & ((1 << LOG_BITS) - 1)]
        of_target = scores[self.targets, np.arange(len(self.targets))] - self.reference
        return in_parts(np.maximum(logarithm - of_target * (NAT // SCORE_STEPS), 0))


def _bit_length(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bit length of positive integers below 2**62, exactly."""
    high = values >> 31
    of_high = np.frexp(high.astype(np.float64))[1] + 31
    of_low = np.frexp((values & 0x7FFFFFFF).astype(np.float64))[1]
    return np.where(high > 0, of_high, of_low).astype(np.int64)
