"""When a search has gone on long enough: pure functions of a study's history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.errors import InputError


@dataclass(frozen=True)
class EarlyStopping:
    """When a phase ends before its trials are spent.

    Attributes:
        patience: Generations without progress after which it ends; ``None`` never ends it.
        min_generations: Generations that it has in any case.
        min_improvement: What counts as progress: the share by which the best loss of an
            objective must fall below the best at the last progress.

    Raises:
        InputError: If a value is out of range.
    """

    patience: int | None = None
    min_generations: int = 3
    min_improvement: float = 0.001

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience: {self.patience} is below 1; leave it out to never stop")
        if self.min_generations < 0 or self.min_improvement < 0:
            raise InputError("min_generations and min_improvement must not be below 0")


def best_so_far(generations: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the lowest loss of each objective after each generation.

    Args:
        generations: Per generation the losses of its trials, ``float64[n, m]``; ``n`` may be 0.

    Returns:
        ``float64[generations, m]``; infinite before the first trial.
    """
    m = max((g.shape[1] for g in generations if g.ndim == 2 and g.size), default=1)
    lowest = [g.min(axis=0) if g.size else np.full(m, np.inf) for g in generations]
    if not lowest:
        return np.zeros((0, m))
    best: NDArray[np.float64] = np.minimum.accumulate(np.stack(lowest), axis=0)
    return best


def stalled_generations(best: NDArray[np.float64], min_improvement: float) -> int:
    """Return for how many generations no objective has made progress.

    Slow progress adds up: each generation is compared with the last one that made progress, not
    with the one before it.

    Args:
        best: The lowest loss of each objective after each generation, ``float64[g, m]``.
        min_improvement: The share of its size by which a loss must fall to count.
    """
    if not len(best):
        return 0
    stalled, reference = 0, best[0]
    for now in best[1:]:
        # Before the first trial the reference is infinite, and any number is progress.
        needed = np.where(np.isfinite(reference), np.abs(reference) * min_improvement, 0.0)
        if (reference - now > needed).any():
            stalled, reference = 0, now
        else:
            stalled += 1
    return stalled


def should_stop(best: NDArray[np.float64], rule: EarlyStopping) -> bool:
    """Return whether a phase ends after its last full generation.

    Args:
        best: The lowest loss of each objective after each full generation, ``float64[g, m]``;
            the first row is where the phase started from.
        rule: When to end.
    """
    if rule.patience is None or len(best) <= rule.min_generations:
        return False
    return stalled_generations(best, rule.min_improvement) >= rule.patience
