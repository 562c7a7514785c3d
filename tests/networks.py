"""Small tasks, genomes that fit them and memory settings, for the tests of evaluators."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.cells import GAINS
from optuna_wnn.evaluators.chained import Queries
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.registry import BACKENDS
from optuna_wnn.evaluators.registry import Lack
from optuna_wnn.evaluators.registry import find_backend
from optuna_wnn.genome import Genome
from optuna_wnn.memory import FitnessOn
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Head
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import chained
from optuna_wnn.tasks.base import pack_bits


USABLE = [name for name in BACKENDS if not isinstance(find_backend(name), Lack)]

# Every memory mode with every vote it allows.
MEMORIES: tuple[dict[str, Any], ...] = (
    {"mode": "wisard", "vote": "mean", "empty_value": 0.3},
    {"mode": "ternary", "vote": "mean", "empty_value": 0.5},
    {"mode": "quad_binary", "vote": "mean"},
    {"mode": "quad_weighted", "vote": "mean"},
    {"mode": "frequency", "vote": "mean"},
    {"mode": "frequency", "vote": "log_odds"},
    {"mode": "frequency", "vote": "confidence"},
)
# What goes with heads of bits only: each cluster has gains of its own.
CALIBRATED: tuple[dict[str, Any], ...] = ({"mode": "frequency", "vote": "calibrated"},)
FITNESSES: tuple[FitnessOn, ...] = ("validation", "leave_one_out", "leave_block_out")


def same(first: Evaluation, second: Evaluation) -> bool:
    """Return whether two evaluations are the same to the last bit."""
    losses, others = first.cluster_losses, second.cluster_losses
    return (
        first.cross_entropy == second.cross_entropy
        and first.accuracy == second.accuracy
        and np.array_equal(first.neuron_order, second.neuron_order)
        and (losses is others if losses is None or others is None else (losses == others).all())
        and first.n_examples == second.n_examples
    )


def make_task(
    head: Head = "bits",
    n_inputs: int = 20,
    n_outputs: int = 6,
    sizes: tuple[int, int, int] = (300, 100, 60),
    seed: int = 0,
) -> Task:
    """Return a task that can be learnt in part: a few inputs decide the target, most of the time.

    The inputs from the eighth on are noisy copies of the first eight, so that wide neurons meet
    the same address again.
    """
    rng = np.random.default_rng(seed)

    def examples(size: int) -> Examples:
        bits = rng.integers(0, 2, (size, n_inputs))
        if n_inputs > 8:
            copies = bits[:, np.arange(n_inputs - 8) % 8]
            bits[:, 8:] = copies ^ (rng.random(copies.shape) < 0.02)
        code = (
            bits[:, 0]
            + 2 * bits[:, 2 % n_inputs]
            + 4 * (bits[:, 1 % n_inputs] ^ bits[:, n_inputs - 1])
        )
        noise = rng.integers(0, n_outputs, size) * (rng.random(size) < 0.1)
        return Examples(
            pack_bits(bits.astype(bool)), ((code + noise) % n_outputs).astype(np.int64)
        )

    train, validation, test = (examples(size) for size in sizes)
    given: Head = "bits" if head == "chained_bits" else head
    task = Task("small", given, n_inputs, n_outputs, train, validation, test, (1, n_inputs))
    return chained(task) if head == "chained_bits" else task


def make_genome(task: Task, neurons: int, bits: list[int], seed: int = 0) -> Genome:
    """Return a random genome with ``neurons`` per cluster; cluster ``k`` has ``bits[k % len]``."""
    rng = np.random.default_rng(seed)
    visible = task.visible or (task.n_inputs,) * task.n_clusters
    return Genome.of_clusters(
        np.array([rng.permutation(n)[: min(bits[k % len(bits)], n)] for _ in range(neurons)])
        for k, n in enumerate(visible)
    )


@st.composite
def memory_settings(
    draw: st.DrawFn, kinds: tuple[dict[str, Any], ...] = MEMORIES
) -> MemorySettings:
    """Draw settings of any of some modes and votes, and any fitness that goes with them."""
    kind = draw(st.sampled_from(kinds))
    counts = kind["mode"] in ("ternary", "frequency")
    return MemorySettings(
        **kind,
        sample_rate=draw(st.sampled_from([1.0] if kind in CALIBRATED else [1.0, 0.5])),
        sample_seed=draw(st.integers(-3, 3)),
        temperature=draw(st.sampled_from([0.25, "fit"])),
        fitness_on=draw(st.sampled_from(FITNESSES)) if counts else "validation",
        blocks=draw(st.integers(2, 7)),
    )


def random_gains(task: Task, seed: int = 0) -> NDArray[np.int64]:
    """Return gains of every cluster, some of them below 0."""
    return np.random.default_rng(seed).integers(-200, 700, (task.n_clusters, GAINS))


def random_queries(reading: Reading, n: int, seed: int = 0) -> Queries:
    """Return inputs that stand for other examples than they are of, and some of their own."""
    rng = np.random.default_rng(seed)
    rows, others = rng.integers(0, len(reading.examples), (2, n))
    inputs = reading.examples.inputs[np.where(rng.random(n) < 0.3, rows, others)]
    inputs[:, 0] ^= (rng.random(n) < 0.5).astype(np.uint64)
    return Queries(rows, inputs)


@st.composite
def tasks(draw: st.DrawFn, heads: tuple[Head, ...] = ("bits", "chained_bits", "classes")) -> Task:
    """Draw a task of any of some heads whose inputs take one, two or three words."""
    return make_task(
        draw(st.sampled_from(heads)),
        n_inputs=draw(st.sampled_from([9, 64, 65, 150])),
        n_outputs=draw(st.integers(2, 9)),
        sizes=(draw(st.integers(2, 150)), draw(st.integers(1, 80)), 5),
        seed=draw(st.integers(0, 99)),
    )


@st.composite
def genomes(draw: st.DrawFn, task: Task, most_bits: int = 120) -> Genome:
    """Draw a genome for ``task``; its clusters may differ in width."""
    fewest = min(task.visible or (task.n_inputs,))
    widths = st.integers(1, min(most_bits, fewest))
    bits = draw(st.lists(widths, min_size=1, max_size=3))
    return make_genome(task, draw(st.integers(1, 6)), bits, draw(st.integers(0, 99)))
