"""Search a RAM network that predicts the next byte of English text, in plain Optuna."""

from __future__ import annotations

import optuna

from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator


task = load_task("python-docs")  # real English text that ships with Python itself
evaluator = create_evaluator(task)  # the fastest backend this machine has
space = GenomeSpace.for_task(task, neurons=(2, 64), bits=(4, 16))


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Return how well the trial's genome predicts what the search is guided by."""
    result = evaluator.evaluate(space.suggest(trial))
    return result.cross_entropy, result.accuracy


if __name__ == "__main__":
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=WNNGeneticSampler(population_size=20)
    )
    study.optimize(objective, n_trials=100)
    best = min(study.best_trials, key=lambda trial: trial.values[0])
    print(
        f"trial {best.number}: cross-entropy {best.values[0]:.4f}, accuracy {best.values[1]:.4f}"
    )
