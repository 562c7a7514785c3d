"""The genetic sampler of optuna-wnn, for OptunaHub."""

from __future__ import annotations

from optuna_wnn import WNNGeneticSampler


__all__ = ["WNNGeneticSampler"]
