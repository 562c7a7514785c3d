"""An objective of your own: good and small networks, each refined before it reports.

python examples/custom_objective.py [TRIALS]
"""

from __future__ import annotations

import sys

import optuna

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import genome
from optuna_wnn import load_task
from optuna_wnn import set_genome
from optuna_wnn.evaluators import create_evaluator


memory = MemorySettings()
task = load_task("python-docs", context=3)
evaluator = create_evaluator(task, memory)
space = GenomeSpace.for_task(task, neurons=(1, 12), bits=(2, 12))


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Return the cross-entropy after 100 moves, and the size of the tables in KiB."""
    wiring, result = evaluator.refine(
        space.suggest(trial), space.bounds, ["connections"], steps=100, seed=trial.number
    )
    set_genome(trial, wiring, result.cluster_losses)  # children inherit what was refined
    trial.set_user_attr("accuracy", round(result.accuracy, 4))
    return result.cross_entropy, memory.kib(wiring)


def main() -> None:
    """Search the front of error and size, and print it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize", "minimize"],
        sampler=WNNGeneticSampler(seed=0, population_size=20, fitness="PARETO"),
    )
    study.optimize(objective, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print("cross-entropy      KiB  accuracy  neurons")
    for trial in sorted(study.best_trials, key=lambda t: t.values):
        loss, kib = trial.values
        n_neurons = genome(trial, study).n_neurons
        print(f"{loss:13.4f} {kib:8.1f} {trial.user_attrs['accuracy']:9.3f} {n_neurons:8}")


if __name__ == "__main__":
    main()
