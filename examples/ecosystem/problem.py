"""The small problem that the scripts of this folder search: bytes of Python's own help()."""

from __future__ import annotations

import sys

import optuna

from optuna_wnn import GenomeSpace
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator


task = load_task("python-docs", context=1)
evaluator = create_evaluator(task, threads=1)
space = GenomeSpace.for_task(task, neurons=(1, 4), bits=(2, 8))


def objective(trial: optuna.Trial) -> float:
    """Return the cross-entropy of the trial's genome, in nats per byte."""
    return evaluator.evaluate(space.suggest(trial)).cross_entropy


def n_trials() -> int:
    """Return how many trials the command line asks for."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else 30
