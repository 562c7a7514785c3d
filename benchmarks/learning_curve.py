"""Draws what every phase of some runs gained: best loss by trial, and test loss by phase.

Runs of one configuration with different seeds show what is gain and what is noise. Needs
matplotlib.

    python benchmarks/learning_curve.py sqlite:///wikitext2.db gains.png seed1 seed2 seed3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import optuna

from optuna_wnn import open_storage
from optuna_wnn import report
from optuna_wnn.store.trials import all_trials


def curve(study: optuna.Study) -> list[float]:
    """Return the best loss so far after every trial with a value."""
    losses = [trial.values[0] for trial in all_trials(study) if trial.values]
    best: list[float] = np.minimum.accumulate(losses).tolist()
    return best


def main() -> None:
    """Read the runs, draw and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storage", help="URL of the storage")
    parser.add_argument("picture", type=Path, help="a PNG file")
    parser.add_argument("runs", nargs="+", help="their names")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    storage = open_storage(chosen.storage)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    tests = []
    for color, run in enumerate(chosen.runs):
        summary = report.summarise(storage, run)
        start = 0
        for phase in summary.phases:
            losses = curve(optuna.load_study(study_name=phase.study, storage=storage))
            places = range(start, start + len(losses))
            left.plot(places, losses, color=f"C{color}", label=run if not start else None)
            start += len(losses)
        points = [summary.first_test, *(phase.test for phase in summary.phases)]
        tests.append([point[0] if point else np.nan for point in points])
        right.plot(tests[-1], marker="o", color=f"C{color}", label=run)
    names = [phase.study.partition("-")[2] for phase in summary.phases]
    left.set(xlabel="trial", ylabel="best loss of the phase so far, nats")
    right.set_xticks(range(len(names) + 1), ["start", *names], rotation=30)
    right.set_ylabel("test cross-entropy of the phase's best, nats")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(chosen.picture, dpi=110)

    values = np.array(tests)
    gains = -np.diff(values, axis=1)
    print("| phase | gain in test CE: mean | least to most |")
    print("| --- | --- | --- |")
    for name, gain in zip(names, gains.T, strict=True):
        print(f"| {name} | {gain.mean():.4f} | {gain.min():.4f} to {gain.max():.4f} |")
    total = gains.sum(axis=1)
    print(f"| all | {total.mean():.4f} | {total.min():.4f} to {total.max():.4f} |")


if __name__ == "__main__":
    main()
