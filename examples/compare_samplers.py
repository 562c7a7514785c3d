"""The same objective under different samplers, several seeds each.

    python examples/compare_samplers.py [TRIALS] [SEEDS]

A sampler that knows nothing of genomes draws the counts and a number that seeds random wiring.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from optuna_wnn import GenomeSpace
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "genetic": lambda seed: WNNGeneticSampler(seed=seed, population_size=20),
    "tabu": lambda seed: WNNTabuSearchSampler(seed=seed, n_neighbors=10),
    "hill climber": lambda seed: WNNTabuSearchSampler(seed=seed, n_neighbors=1),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "NSGA-II": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
}

task = load_task("python-docs", context=4)
space = GenomeSpace.for_task(task, neurons=(2, 12), bits=(4, 12))
evaluator = create_evaluator(task)


def objective(trial: optuna.Trial) -> float:
    """Return the cross-entropy of the trial's genome on the validation part."""
    return evaluator.evaluate(space.suggest(trial)).cross_entropy


def main() -> None:
    """Print the best cross-entropy of each sampler: median, lowest and highest over seeds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = [int(word) for word in sys.argv[1:]]
    n_trials, n_seeds = given + [200, 3][len(given) :]
    print(f"{n_trials} trials, {n_seeds} seeds")
    print("sampler        median   lowest  highest  CPU s")
    for name, make in SAMPLERS.items():
        started, best = time.process_time(), []
        for seed in range(n_seeds):
            study = optuna.create_study(sampler=make(seed))
            study.optimize(objective, n_trials=n_trials)
            best.append(study.best_value)
        seconds = time.process_time() - started
        middle = statistics.median(best)
        print(f"{name:12} {middle:8.4f} {min(best):8.4f} {max(best):8.4f} {seconds:6.1f}")


if __name__ == "__main__":
    main()
