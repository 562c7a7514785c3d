"""Trials as steps of a Weights & Biases run: python examples/ecosystem/wandb_callback.py [TRIALS].

``WANDB_MODE=offline`` keeps them on this machine.
"""

from __future__ import annotations

import optuna
from optuna_integration import WeightsAndBiasesCallback
from problem import n_trials
from problem import objective

from optuna_wnn import WNNGeneticSampler


def main() -> None:
    """Log to the project optuna-wnn."""
    callback = WeightsAndBiasesCallback("cross-entropy", wandb_kwargs={"project": "optuna-wnn"})
    study = optuna.create_study(sampler=WNNGeneticSampler(seed=0, population_size=6))
    study.optimize(objective, n_trials(), callbacks=[callback])
    print(f"{len(study.trials)} trials, best {study.best_value:.4f}")


if __name__ == "__main__":
    main()
