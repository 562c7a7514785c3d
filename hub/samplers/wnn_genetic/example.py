"""Minimise a function of three parameters with the genetic sampler."""

from __future__ import annotations

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """Return how far three parameters are from the best ones."""
    x = trial.suggest_float("x", -5, 5)
    k = trial.suggest_int("k", 0, 20)
    shift = {"left": 1.0, "right": 0.0}[trial.suggest_categorical("side", ["left", "right"])]
    return x**2 + (k - 7) ** 2 + shift


module = optunahub.load_module("samplers/wnn_genetic")
study = optuna.create_study(sampler=module.WNNGeneticSampler(seed=0, population_size=10))
study.optimize(objective, n_trials=100)
print(study.best_params, study.best_value)
