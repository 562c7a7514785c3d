"""What predicting bits one after the other is worth: ``bits`` against ``chained_bits``.

Both heads get the same wiring moves on the text of Python's own ``help()``; the committed figures
in ``docs/explanation/heads.md`` name the command that made them. CPU seconds are of one thread,
the best of several repeats; cross-entropy and accuracy are those of the test part, which no move
sees.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from optuna_wnn import GenomeSpace
from optuna_wnn import load_task
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of


def cpu_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU time that a call took."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def measure(head: str, moves: int, seed: int, repeats: int) -> dict[str, Any]:
    """Return what one head reaches from one random genome, and what it costs."""
    task = load_task("python-docs", head=head)
    space = GenomeSpace.for_task(task, neurons=16, bits=16, free=["connections"])
    evaluator = create_evaluator(task)
    genome = space.sample(np.random.default_rng(seed))
    start = evaluator.evaluate(genome, "test")
    before = time.process_time()
    refined, _ = evaluator.refine(genome, space.bounds, space.free, moves, seed)
    spent = time.process_time() - before
    end = evaluator.evaluate(refined, "test")
    alone = create_evaluator(task, threads=1, cache_bytes=0)
    clusters, reading = clusters_of(refined), part_reading(task, alone.memory, "fitness")
    evaluate = cpu_seconds(lambda: alone.evaluate(refined), repeats)
    votes = cpu_seconds(lambda: alone.cluster_votes(clusters, reading), repeats)
    return {
        "head": head,
        "seed": seed,
        "random_ce": start.cross_entropy,
        "random_accuracy": start.accuracy,
        "refined_ce": end.cross_entropy,
        "refined_accuracy": end.accuracy,
        "refine_cpu_s": spent,
        "evaluate_cpu_s": evaluate,
        "votes_cpu_s": votes,
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=24_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.moves} moves")
    rows = []
    for seed in range(options.seeds):
        for head in ("bits", "chained_bits"):
            row = measure(head, options.moves, seed, options.repeats)
            rows.append(row)
            shown = (f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items())
            print(", ".join(shown), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
