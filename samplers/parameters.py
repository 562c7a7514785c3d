"""How ordinary Optuna parameters vary: random values, and values near a given one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution


def random_value(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """Return a value drawn uniformly (in the logarithm where the distribution says so)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    return _from_unit(distribution, rng.random())


def nearby_value(
    distribution: BaseDistribution, value: Any, width: float, rng: np.random.Generator
) -> Any:
    """Return another value near the given one, or a random one where no nearness is defined.

    Args:
        distribution: What the value must conform to.
        value: The value to leave; any value is taken.
        width: Standard deviation of the step, as a share of the range.
        rng: Source of randomness.

    Returns:
        A value that differs from the given one where the distribution has more than one.
    """
    if distribution.single():
        return random_value(distribution, rng)
    if isinstance(distribution, CategoricalDistribution):
        others = [c for c in distribution.choices if c is not value and c != value]
        return others[int(rng.integers(len(others)))] if others else value
    if not conforms(distribution, value):
        return random_value(distribution, rng)
    unit = _to_unit(distribution, value) + width * rng.standard_normal()
    unit = abs(unit) if unit < 0 else unit
    unit = 2 - unit if unit > 1 else unit
    found = _from_unit(distribution, min(1.0, max(0.0, unit)))
    if found == value and not isinstance(
        distribution, FloatDistribution | CategoricalDistribution
    ):
        assert isinstance(distribution, IntDistribution)
        steps = (distribution.high - distribution.low) // distribution.step
        place = (value - distribution.low) // distribution.step
        place += 1 if place == 0 or (place < steps and rng.random() < 0.5) else -1
        return distribution.low + place * distribution.step
    return found


def conforms(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a value is one that the distribution can give."""
    try:
        internal = distribution.to_internal_repr(value)
        return not math.isnan(internal) and distribution._contains(internal)
    except (TypeError, ValueError):
        return False


def _scale(distribution: BaseDistribution) -> tuple[float, float]:
    """Return the ends of the range that is cut into equal shares."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if isinstance(distribution, IntDistribution) or distribution.step is not None:
        half = float(distribution.step or 1) / 2  # so that the values at the ends get full shares
        low, high = (low - half, high + half) if not distribution.log else (low - 0.5, high + 0.5)
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _to_unit(distribution: BaseDistribution, value: Any) -> float:
    low, high = _scale(distribution)
    number = math.log(value) if distribution.log else float(value)  # type: ignore[attr-defined]
    return (number - low) / (high - low)


def _from_unit(distribution: BaseDistribution, unit: float) -> Any:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _scale(distribution)
    number = low + unit * (high - low)
    if distribution.log:
        number = math.exp(number)
    if isinstance(distribution, IntDistribution):
        step = round((number - distribution.low) / distribution.step)
        last = (distribution.high - distribution.low) // distribution.step
        return distribution.low + min(max(step, 0), last) * distribution.step
    if distribution.step is not None:
        step = round((number - distribution.low) / distribution.step)
        last = round((distribution.high - distribution.low) / distribution.step)
        number = distribution.low + min(max(step, 0), last) * distribution.step
    return min(max(number, distribution.low), distribution.high)
