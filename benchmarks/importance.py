"""Pictures of which inputs matter: handwritten digits by pixel, text by position and bit.

    python benchmarks/importance.py docs/explanation

Random wiring after a plain hill climb; the weights are those that ``report --importance`` draws.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from search_quality import digits

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.importance import Importance
from optuna_wnn.importance import importance
from optuna_wnn.tasks import Task


def climbed(task: Task, memory: MemorySettings, neurons: int, bits: int, moves: int) -> Importance:
    """Return what matters after a hill climb from random wiring."""
    space = GenomeSpace.for_task(task, neurons=neurons, bits=bits)
    evaluator = create_evaluator(task, memory, backend="cpu")
    start = space.sample(np.random.default_rng(0))
    genome, found = evaluator.refine(start, space.bounds, ["connections"], moves, seed=0)
    print(f"{task.name}: fitness {found.cross_entropy:.4f}, accuracy {found.accuracy:.4f}")
    return importance(evaluator, genome)


def draw(found: Importance, names: list[str], title: str, file: Path) -> None:
    """Draw the weights of each cluster, brightest where they are highest."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    positions, width = found.input_groups
    grids = found.weights[:, : positions * width].reshape(-1, positions, width)
    figure, axes = plt.subplots(2, -(-len(grids) // 2), figsize=(10, 4.6), layout="constrained")
    for axis, name, grid in zip(axes.flat, names, grids, strict=True):
        shown = grid.T if found.picture is None else grid.sum(axis=1).reshape(found.picture)
        axis.imshow(shown, cmap="cividis", vmin=0)
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=80)


def main() -> None:
    """Climb, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--moves", type=int, default=20_000)
    options = parser.parse_args()
    left_out = MemorySettings(vote="log_odds", temperature="fit", fitness_on="leave_one_out")
    images = replace(digits(0), picture=(8, 8))
    draw(
        climbed(images, left_out, 20, 8, options.moves),
        [f"digit {k}" for k in range(10)],
        "Digits: weight of each pixel, by class",
        options.folder / "importance-digits.png",
    )
    draw(
        climbed(load_task("python-docs"), MemorySettings(), 16, 12, options.moves // 10),
        [f"bit {k} of the next byte" for k in range(8)],
        "Text: the eight bytes before (the oldest left), their bits (the most significant on top)",
        options.folder / "importance-text.png",
    )


if __name__ == "__main__":
    main()
