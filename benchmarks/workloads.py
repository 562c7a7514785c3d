"""What the benchmarks of evaluation work on, and how they measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import usable_processors
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task


Row = dict[str, Any]

MEMORIES: dict[str, MemorySettings] = {
    "quad_weighted": MemorySettings(mode="quad_weighted", vote="mean"),
    "frequency": MemorySettings(mode="frequency", vote="mean"),
    "confidence": MemorySettings(mode="frequency", vote="confidence"),
}


def text_like(n_train: int = 200_000, n_read: int = 50_000, n_outputs: int = 1 << 16) -> Task:
    """Return four tokens of 16 bits each, Zipf-distributed, and the code of the next."""
    rng = np.random.default_rng(1)
    shares = 1 / (np.arange(50_257) + 2.7)
    codes = np.random.default_rng(123).permutation(1 << 16)[:50_257].astype(np.uint64)

    def examples(size: int) -> Examples:
        tokens = codes[rng.choice(len(shares), size + 4, p=shares / shares.sum())]
        inputs = sum(tokens[i : size + i] << np.uint64(16 * i) for i in range(4))
        return Examples(np.asarray(inputs)[:, None], tokens[4:].astype(np.int64) % n_outputs)

    parts = (examples(n_train), examples(n_read), examples(1000))
    return Task("text-like", "bits", 64, n_outputs, *parts, (4, 16))


def images_like(n_train: int = 60_000, n_read: int = 10_000) -> Task:
    """Return 784 random bits of ten classes, each with its own probability per bit."""
    rng = np.random.default_rng(2)
    shares = rng.beta(0.5, 0.9, (10, 784))

    def examples(size: int) -> Examples:
        targets = rng.integers(0, 10, size)
        bits = np.zeros((size, 832), bool)
        bits[:, :784] = rng.random((size, 784)) < shares[targets]
        packed = np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)
        return Examples(packed, targets.astype(np.int64))

    parts = (examples(n_train), examples(n_read), examples(1000))
    return Task("images-like", "classes", 784, 10, *parts, (784, 1))


def network(task: Task, neurons: int, bits: int, seed: int = 7) -> Genome:
    """Return randomly wired clusters that are all alike."""
    rng = np.random.default_rng(seed)
    draws = rng.random((task.n_clusters, neurons, task.n_inputs))
    return Genome.of_clusters(np.argsort(draws, axis=2)[:, :, :bits])


def rewired(genome: Genome, cluster: int, which: NDArray[np.int64], seed: int) -> Genome:
    """Return the genome with one connection of some neurons of a cluster moved."""
    rng = np.random.default_rng(seed)
    clusters = [genome.cluster(k) for k in range(genome.n_clusters)]
    rows = clusters[cluster].copy()
    for n in which:
        unseen = np.setdiff1d(np.arange(64), rows[n])
        rows[n, rng.integers(rows.shape[1])] = rng.choice(unseen)
    clusters[cluster] = rows
    return Genome.of_clusters(clusters)


@dataclass(frozen=True)
class Spent:
    """The least time that something took.

    Attributes:
        wall: Seconds by the clock.
        cpu: CPU seconds of all threads, over the number of processors: what the clock would show
            on free ones, but for the wait for the last thread.
    """

    wall: float
    cpu: float


def spent(thing: Callable[[], object]) -> Spent:
    """Return what doing something once takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    thing()
    cpu = (time.process_time() - cpu) / usable_processors()
    return Spent(time.perf_counter() - wall, cpu)


def take_turns(things: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Spent]:
    """Return the least times of each of some things, done in turn."""
    best: dict[str, Spent] = {}
    for _ in range(repeats):
        for name, thing in things.items():
            now = spent(thing)
            least = best.get(name, now)
            best[name] = Spent(min(now.wall, least.wall), min(now.cpu, least.cpu))
    return best


def votes_of(evaluator: Evaluator, genome: Genome, reading: Reading) -> Callable[[], object]:
    clusters = clusters_of(genome)
    return lambda: evaluator.cluster_votes(clusters, reading)
