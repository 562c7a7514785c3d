"""Which of many trials is better: orders over raw objective values, feasible trials first.

Only orders are ever computed, from the raw values of the trials at hand. A score that depends on
the pool it was computed in is never stored.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError


class FitnessCalculatorType(str, enum.Enum):
    """How several objectives make one order.

    Attributes:
        CE: The first objective alone; the others break ties.
        HARMONIC_RANK: The weighted harmonic mean of how well a trial ranks in each objective: a
            trial that is bad in one objective is bad.
        NORMALIZED: The weighted mean of the objectives, each stretched from the best to the
            worst trial at hand: differences count, not only ranks.
        PARETO: Non-dominated rank, then crowding distance: keeps the whole front.
    """

    CE = "CE"
    HARMONIC_RANK = "HARMONIC_RANK"
    NORMALIZED = "NORMALIZED"
    PARETO = "PARETO"


def shared_ranks(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each value's rank among all, 1 for the lowest; equal values share the rank.

    Args:
        losses: ``float64[n]``.

    Returns:
        ``int64[n]``: one more than the number of strictly lower values.
    """
    return 1 + np.searchsorted(np.sort(losses), losses, side="left").astype(np.int64)


def harmonic_rank(
    losses: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted harmonic mean of goodness per trial; higher is better.

    A trial of rank ``r`` of ``n`` in an objective has the goodness ``(n + 1 - r) / n`` there. The
    harmonic mean of *goodness* is low as soon as one objective is bad. The harmonic mean of the
    rank numbers themselves would do the opposite: of (1st, 50th) and (3rd, 3rd) it prefers the
    former, 1.96 being less than 3.

    Args:
        losses: ``float64[n, m]``, lower is better in each of ``m`` objectives.
        weights: ``float64[m]``, above 0.

    Returns:
        ``float64[n]`` in (0, 1].
    """
    n = len(losses)
    ranks = np.stack([shared_ranks(column) for column in losses.T], axis=1)
    goodness = (n + 1 - ranks) / n
    mean: NDArray[np.float64] = weights.sum() / (weights / goodness).sum(axis=1)
    return mean


def normalized(losses: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean of min-max normalised goodness per trial; higher is better.

    Args:
        losses: ``float64[n, m]``, lower is better in each of ``m`` objectives.
        weights: ``float64[m]``, above 0.

    Returns:
        ``float64[n]`` in [0, 1]; an objective in which all trials are equal counts 1 for each.
    """
    finite = np.where(np.isfinite(losses), losses, np.nan)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column may hold nothing finite
        low, high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
        share = (losses - low) / (high - low)
    share = np.where(np.isnan(share), np.where(losses == np.inf, 1.0, 0.0), np.clip(share, 0, 1))
    goodness: NDArray[np.float64] = ((1 - share) * weights).sum(axis=1) / weights.sum()
    return goodness


def non_dominated_ranks(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each trial's front: 0 for those that no other dominates, 1 for those behind, ….

    Reference: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic
    algorithm: NSGA-II", IEEE Transactions on Evolutionary Computation 6(2), 2002, section III-A.

    Args:
        losses: ``float64[n, m]``, lower is better in each of ``m`` objectives.
    """
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)
    dominates = no_worse & (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    ranks = np.full(len(losses), -1, np.int64)
    left = np.ones(len(losses), bool)
    front = 0
    while left.any():
        now = left & ~np.any(dominates, axis=0, where=left[:, None])
        ranks[now] = front
        left &= ~now
        front += 1
    return ranks


def crowding_distances(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far apart each trial's neighbours on a front are; infinite at its ends.

    Reference: as :func:`non_dominated_ranks`, section III-B.

    Args:
        losses: ``float64[n, m]`` of one front.
    """
    distances = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        if np.isfinite(ordered).all() and ordered[0] < ordered[-1]:
            gaps = np.full(len(losses), np.inf)
            gaps[1:-1] = ordered[2:] - ordered[:-2]
            distances[order] += gaps / (ordered[-1] - ordered[0])
        else:
            distances[order[[0, -1]]] = np.inf
    return distances


def pareto(losses: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a score that puts fronts in order, and the less crowded first within each.

    Args:
        losses: ``float64[n, m]``, lower is better in each of ``m`` objectives.
        weights: Not used: a front knows no weights.

    Returns:
        ``float64[n]``; higher is better.
    """
    ranks = non_dominated_ranks(losses)
    within = np.zeros(len(losses))
    for front in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == front)
        place = shared_ranks(-crowding_distances(losses[members]))
        within[members] = (place - 1) / len(members)
    return -(ranks + within)


def _zero(losses: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros(len(losses))


_SCORES: Final[
    dict[
        FitnessCalculatorType,
        Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    ]
] = {
    FitnessCalculatorType.CE: _zero,
    FitnessCalculatorType.HARMONIC_RANK: harmonic_rank,
    FitnessCalculatorType.NORMALIZED: normalized,
    FitnessCalculatorType.PARETO: pareto,
}


@dataclass(frozen=True)
class Fitness:
    """An order over trials.

    Attributes:
        calculator: How several objectives make one order; names are taken as well.
        weights: One weight above 0 per objective, or ``None`` for equal weights.
        accuracy_floor: Trials whose accuracy, the second objective, is below this rank behind
            all others, by how much they miss it; ``None`` for no floor.

    Raises:
        InputError: If there is no such calculator, or a number is out of range.
    """

    calculator: FitnessCalculatorType = FitnessCalculatorType.CE
    weights: tuple[float, ...] | None = None
    accuracy_floor: float | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "calculator", FitnessCalculatorType(self.calculator))
        except ValueError:
            known = ", ".join(kind.value for kind in FitnessCalculatorType)
            raise InputError(
                f"fitness.calculator: {self.calculator!r} is not one of {known}"
            ) from None
        if self.weights is not None and not all(0 < w < np.inf for w in self.weights):
            raise InputError(f"fitness.weights: {list(self.weights)} are not all above 0")
        if self.accuracy_floor is not None and not 0 <= self.accuracy_floor <= 1:
            raise InputError(f"fitness.accuracy_floor: {self.accuracy_floor} is not in [0, 1]")

    @classmethod
    def of(cls, fitness: Fitness | FitnessCalculatorType | str) -> Fitness:
        """Return a fitness as it is, or the one that a calculator's name stands for."""
        return fitness if isinstance(fitness, Fitness) else cls(fitness)  # type: ignore[arg-type]

    def order(
        self,
        losses: NDArray[np.float64] | Sequence[Sequence[float]],
        violations: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Return the indices of the trials, best first.

        Trials that violate nothing come first, in the calculator's order; the others follow by
        how much they violate. What still ties goes by the first objective, the second and so
        on, and then keeps the given order.

        Args:
            losses: ``float64[n, m]``, lower is better in each of ``m`` objectives.
            violations: ``float64[n]``, how far each trial misses what it must meet; at most 0
                is feasible. ``None`` if all are.

        Returns:
            A permutation, ``int64[n]``.

        Raises:
            InputError: If the number of weights is not the number of objectives.
        """
        losses = np.asarray(losses, np.float64)
        n, m = losses.shape if losses.ndim == 2 else (len(losses), 0)
        if n == 0:
            return np.zeros(0, np.int64)
        weights = np.ones(m) if self.weights is None else np.asarray(self.weights, np.float64)
        if len(weights) != m:
            raise InputError(f"fitness.weights: {len(weights)} weights for {m} objectives")
        missed = np.zeros(n) if violations is None else np.maximum(violations, 0.0)
        if self.accuracy_floor is not None and m > 1:
            missed = missed + np.maximum(self.accuracy_floor + losses[:, 1], 0.0)
        feasible = missed == 0
        scores = np.zeros(n)
        if feasible.any():
            scores[feasible] = _SCORES[self.calculator](losses[feasible], weights)
        keys = [*reversed(losses.T), -scores, missed]
        return np.lexsort(keys).astype(np.int64)
