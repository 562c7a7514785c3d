"""Tell the classes of a table's rows apart: a file of yours, or scikit-learn's digits.

    python examples/tabular.py [TABLE.csv or TABLE.npz] [--trials N]

In a .csv the class is the column called ``target``, or else the last; a .npz has x and y.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import optuna

from optuna_wnn import GenomeSpace
from optuna_wnn import InputError
from optuna_wnn import MemorySettings
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn import genome
from optuna_wnn import load_task
from optuna_wnn import set_genome
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.tasks import Task


def digits() -> Task:
    """Return the task of 1,797 handwritten digits of 8 by 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "scikit-learn is not installed: give a table of your own, or pip install scikit-learn"
        ) from error
    data = load_digits()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.npz")
        np.savez(path, x=data.data, y=data.target)
        return load_task("tabular", path=path, thresholds=4, encoding="uniform")


def search(task: Task, n_trials: int) -> None:
    """Search a network and print what it does on the test part."""
    # The temperature turns votes into probabilities; accuracy does not depend on it.
    evaluator = create_evaluator(task, MemorySettings(temperature="fit"))
    most = min(16, task.n_inputs)
    space = GenomeSpace.for_task(task, neurons=(5, 40), bits=(min(4, most), most))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        result = evaluator.evaluate(wiring := space.suggest(trial))
        set_genome(trial, wiring.reordered(result.neuron_order))  # best neurons first
        return result.cross_entropy, result.accuracy

    study = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=WNNTabuSearchSampler(seed=0, n_neighbors=10, fitness="HARMONIC_RANK"),
    )
    study.optimize(objective, n_trials=n_trials)
    best = max(study.best_trials, key=lambda trial: trial.values[1])
    test = evaluator.evaluate(genome(best, study), "test")
    print(f"{task.name}: {len(task.train)} training rows, {task.n_inputs} input bits")
    print(f"validation accuracy {best.values[1]:.3f} (trial {best.number})")
    print(f"test accuracy {test.accuracy:.3f}, cross-entropy {test.cross_entropy:.3f} nats")


def main() -> None:
    """Read the command line and search."""
    parser = argparse.ArgumentParser(description="Search a network for a table.")
    parser.add_argument("table", nargs="?", help="a .csv or .npz file; default: digits")
    parser.add_argument("--trials", type=int, default=200)
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        task = load_task("tabular", path=chosen.table) if chosen.table else digits()
        search(task, chosen.trials)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
