"""Draw the picture in the README: how a run's best cross-entropy falls, phase after phase.

    python benchmarks/run_picture.py quickstart sqlite:///optuna-wnn.db docs/quickstart.png

Needs matplotlib.
"""

from __future__ import annotations

import sys

import matplotlib
import optuna

from optuna_wnn import open_storage
from optuna_wnn import report


matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(name: str, url: str, path: str) -> None:
    """Draw every trial, the best so far, and what each phase's best reaches on the test part.

    Args:
        name: The run.
        url: Where its studies live.
        path: The PNG to write.
    """
    storage = open_storage(url)
    summary = report.summarise(storage, name)
    figure, axis = plt.subplots(figsize=(9, 4.2))
    start, best = 0, float("inf")
    for phase in summary.phases:
        study = optuna.load_study(study_name=phase.study, storage=storage)
        trials = [
            t for t in study.get_trials() if t.values and report.SEEDED_FROM not in t.user_attrs
        ]
        losses = [trial.values[0] for trial in trials]
        curve = [best := min(best, loss) for loss in losses]
        places = range(start, start + len(losses))
        axis.plot(places, losses, ".", color="0.75", markersize=4)
        axis.plot(places, curve, color="tab:blue", label="best so far, validation" * (not start))
        if phase.test is not None:
            end = start + len(losses)
            axis.hlines(phase.test[0], start, end, color="tab:red", linestyle="--", linewidth=1)
        axis.axvline(start, color="0.9", zorder=0)
        label = phase.study.rpartition("/")[2]
        axis.text(start + 1, 1.01, label, fontsize=8, transform=axis.get_xaxis_transform())
        start += len(losses)
    for baseline in ("unigram", "bigram"):
        if baseline in summary.baselines:
            loss = summary.baselines[baseline]
            axis.axhline(loss, color="tab:green", linewidth=1)
            axis.text(start, loss, f" {baseline}", color="tab:green", va="center", fontsize=8)
    axis.plot([], [], "--", color="tab:red", label="best of the phase, test")
    axis.set(xlabel="trial", ylabel="cross-entropy, nats per byte", xlim=(0, start))
    axis.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    draw(*sys.argv[1:])
