"""Optuna's own plots and importances: python examples/ecosystem/optuna_tools.py [TRIALS]."""

from __future__ import annotations

import optuna
from problem import evaluator
from problem import n_trials
from problem import task

from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler


# At most 32 free counts are parameters of their own, so that plots have something to show.
space = GenomeSpace.for_task(task, neurons=(1, 4), bits=(2, 8), free=["neurons"])


def objective(trial: optuna.Trial) -> float:
    """Return the cross-entropy of the trial's genome, in nats per byte."""
    return evaluator.evaluate(space.suggest(trial)).cross_entropy


def main() -> None:
    """Search, then say which counts mattered, and draw."""
    study = optuna.create_study(sampler=WNNGeneticSampler(seed=0, population_size=6))
    study.optimize(objective, n_trials())
    importances = optuna.importance.get_param_importances(study)
    for name, importance in list(importances.items())[:3]:
        print(f"{name}: {importance:.2f}")
    for plot in ("optimization_history", "slice", "parallel_coordinate", "edf", "timeline"):
        figure = getattr(optuna.visualization, f"plot_{plot}")(study)
        print(plot, len(figure.data), "traces")


if __name__ == "__main__":
    main()
