"""Values of a sweep as parameters of its trials, and how Optuna's samplers draw them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.distributions import check_distribution_compatibility
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from optuna_wnn.sweep_config import Axis
from optuna_wnn.sweep_config import Overrides
from optuna_wnn.sweep_config import SweepConfig


Parameters = tuple[dict[str, Any], dict[str, BaseDistribution]]


def drawn(
    config: SweepConfig, place: int, trials: Sequence[FrozenTrial]
) -> tuple[Overrides, Parameters]:
    """Return what ``random`` or ``tpe`` draws for a place.

    It depends on the seed, the place, and for ``tpe`` on the runs before; on nothing else, so a
    sweep that was killed draws the same again.

    Args:
        config: The sweep.
        place: The run's number within the sweep.
        trials: The runs before it, by place.
    """
    space = config.space or {}
    distributions = {key: _distribution_of(axis) for key, axis in space.items()}
    seed = int(np.random.SeedSequence([config.seed, place]).generate_state(1)[0])
    is_random = config.method == "random"
    scratch = optuna.create_study(
        direction=config.direction,
        sampler=RandomSampler(seed) if is_random else TPESampler(seed=seed),
    )
    scratch.add_trials(
        [
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
            )
            for trial in (() if is_random else trials)
        ]
    )
    parameters = scratch.ask(distributions).params
    overrides = {key: _chosen(axis, parameters[key]) for key, axis in space.items()}
    return overrides, (parameters, distributions)


def listed(
    overrides: Overrides, all_overrides: Sequence[Overrides], trials: Sequence[FrozenTrial]
) -> Parameters:
    """Return overrides as Optuna's parameters, for its plots, where they can be such.

    Args:
        overrides: Those of one run.
        all_overrides: Those of all runs, which say what values a parameter has.
        trials: The trials that the study has; distributions must be compatible with theirs.
    """
    known = {
        name: distribution
        for trial in reversed(trials)
        for name, distribution in trial.distributions.items()
    }
    parameters: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for key, value in overrides.items():
        distribution = known.get(key)
        if distribution is None or not _admits(distribution, _label(value)):
            distribution = _distribution([_label(o[key]) for o in all_overrides if key in o])
        if _are_compatible(known.get(key, distribution), distribution):
            parameters[key], distributions[key] = _label(value), distribution
    return parameters, distributions


def _label(value: Any) -> Any:
    """Return a value as one that Optuna takes: lists and mappings as text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _distribution_of(axis: Axis) -> BaseDistribution:
    if axis.choices is not None:
        return CategoricalDistribution(tuple(map(_label, axis.choices)))
    if axis.is_whole:
        return IntDistribution(axis.low, axis.high, log=axis.log, step=axis.step or 1)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _chosen(axis: Axis, parameter: Any) -> Any:
    """Return the value that a parameter stands for."""
    if axis.choices is None:
        return parameter
    return next(value for value in axis.choices if _label(value) == parameter)


def _distribution(labels: Sequence[Any]) -> BaseDistribution:
    """Return a distribution that admits some values."""
    kinds = set(map(type, labels))
    if kinds == {int}:
        return IntDistribution(min(labels), max(labels))
    if kinds <= {int, float}:
        return FloatDistribution(min(labels), max(labels))
    return CategoricalDistribution(tuple(dict.fromkeys(labels)))


def _admits(distribution: BaseDistribution, label: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return label in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kinds = (int,) if isinstance(distribution, IntDistribution) else (int, float)
    return type(label) in kinds and distribution.low <= label <= distribution.high


def _are_compatible(known: BaseDistribution, distribution: BaseDistribution) -> bool:
    """Return whether a study takes both: Optuna's choices, once stored, are fixed."""
    try:
        check_distribution_compatibility(known, distribution)
    except ValueError:
        return False
    return True
