"""Optuna samplers that search the wiring of RAM networks."""

from __future__ import annotations

from optuna_wnn.samplers.genetic import WNNGeneticSampler
from optuna_wnn.samplers.tabu import WNNTabuSearchSampler


__all__ = ["WNNGeneticSampler", "WNNTabuSearchSampler"]
