"""A cluster per token: how long a full evaluation and children take, and how much memory.

python benchmarks/token_head.py [CLUSTERS]

Prints one JSON object; ``benchmarks/evaluation.py`` runs it in a process of its own.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from workloads import Row
from workloads import spent
from workloads import text_like

from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings


MEAN = MemorySettings(mode="frequency", vote="mean")


def random_network(n_clusters: int, seed: int) -> Genome:
    """Return clusters of 5 neurons of 8 bits."""
    draws = np.random.default_rng(seed).random((n_clusters, 5, 64), np.float32)
    return Genome.of_clusters(np.argsort(draws, axis=2)[:, :, :8])


def changed(genome: Genome, other: Genome, which: NDArray[np.int64]) -> Genome:
    """Return a genome with some clusters of another one of the same shape."""
    rows = genome.connections.reshape(genome.n_clusters, 5, 8).copy()
    rows[which] = other.connections.reshape(rows.shape)[which]
    return Genome.of_clusters(rows)


def token_row(n_clusters: int) -> Row:
    """Return wall and CPU seconds of evaluations, and the most memory the process ever took."""
    warm = replace(text_like(2000, 500, n_outputs=100), head="tokens")
    create_evaluator(warm, MEAN, backend="cpu").evaluate(random_network(100, 0))  # compiles
    task = replace(text_like(n_outputs=n_clusters), head="tokens")
    evaluator = create_evaluator(task, MEAN, backend="cpu")
    parent, other = random_network(n_clusters, 1), random_network(n_clusters, 2)
    few = max(n_clusters // 100, 1)
    scattered = np.random.default_rng(3).choice(n_clusters, few, replace=False)
    genomes = {
        "full": parent,
        "1 % of the clusters changed, side by side": changed(parent, other, np.arange(few)),
        "1 % of the clusters changed, scattered": changed(parent, other, scattered),
    }
    row: Row = {"clusters": n_clusters}
    for name, genome in genomes.items():
        times = spent(lambda genome=genome: evaluator.evaluate(genome))  # type: ignore[misc]
        row[name] = {"seconds": times.wall, "cpu_seconds": times.cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row | {"peak_mib": peak / (1 << (20 if sys.platform == "darwin" else 10))}


if __name__ == "__main__":
    print(json.dumps(token_row(int(sys.argv[1]) if len(sys.argv) > 1 else 50_257)))
