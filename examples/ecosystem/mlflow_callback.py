"""Every trial is a run in MLflow: python examples/ecosystem/mlflow_callback.py [TRIALS]."""

from __future__ import annotations

import optuna
from optuna_integration import MLflowCallback
from problem import n_trials
from problem import objective

from optuna_wnn import WNNGeneticSampler


def main() -> None:
    """Log to the file mlflow.db; see it with: mlflow ui --backend-store-uri sqlite:///mlflow.db."""
    callback = MLflowCallback("sqlite:///mlflow.db", metric_name="cross-entropy")
    study = optuna.create_study(
        study_name="wnn", sampler=WNNGeneticSampler(seed=0, population_size=6)
    )
    study.optimize(objective, n_trials(), callbacks=[callback])
    print(f"{len(study.trials)} trials, best {study.best_value:.4f}")


if __name__ == "__main__":
    main()
