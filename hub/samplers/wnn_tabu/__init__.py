"""The tabu search sampler of optuna-wnn, for OptunaHub."""

from __future__ import annotations

from optuna_wnn import WNNTabuSearchSampler


__all__ = ["WNNTabuSearchSampler"]
