"""What the ``mlx`` backend does on this machine's GPU, beside what its memory could do.

python benchmarks/evaluation.py --backend mlx

For populations of genomes: what their launches have to move and to compute, how fast they do, and
how that compares with a plain copy on the same GPU and with the ``cpu`` backend.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any
from typing import Final

import mlx.core as mx
import numpy as np
from evaluation import WIDTHS
from workloads import MEMORIES
from workloads import Row
from workloads import network
from workloads import rewired
from workloads import take_turns
from workloads import text_like

from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.gpu_plan import Part
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.mlx import MlxEvaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


if TYPE_CHECKING:
    import argparse

# Integer instructions, counted in the kernels' text.
_PER_BIT: Final = 6  # of an address: its input's number, shift, mask, shift, or, compare
_PER_PAIR: Final = 20  # what each neuron does once per example, besides its address
_PER_STEP: Final = 50  # to find who addresses the same cell, where order matters


@dataclass(frozen=True)
class Bill:
    """What launches must at least move and compute.

    Attributes:
        bytes: Tables made and filled, cells looked up, sums and scores. Examples are not counted:
            all neurons read the same ones, and caches hold them.
        operations: Integer instructions.
        pairs: Of a neuron and an example.
        launches: How many there are.
    """

    bytes: int
    operations: int
    pairs: int
    launches: int


def bill_of(planned: Sequence[tuple[Work, list[Wiring], list[Part]]]) -> Bill:
    """Return what some launches must move and compute."""
    n_bytes = operations = pairs = 0
    for work, clusters, parts in planned:
        cell = work.cell_bytes * work.cell_words
        for part in parts:
            wiring, n = clusters[part.place], part.last - part.first
            written, read = n * work.n_written, n * work.turn.size
            n_bytes += n * work.of_neuron(wiring).bytes + work.of_part(wiring).bytes
            n_bytes += written * 2 * work.cell_bytes + read * cell
            address = _PER_BIT * wiring.connections.shape[1] + _PER_PAIR
            operations += (written + read) * address
            if not work.cells.counting:
                operations += written * _PER_STEP
            pairs += written + read
    return Bill(n_bytes, operations, pairs, len(planned))


def copy_bandwidth(size: int) -> float:
    """Return bytes per second that a plain copy reads and writes together, best of five."""
    values = mx.zeros((size // 4,), mx.uint32)
    mx.eval(values)
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        mx.eval(values + 1)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def population_row(
    task: Task, memory: str, bits: int, bandwidth: float, options: argparse.Namespace
) -> Row:
    """Return how fast a population of random genomes is evaluated."""
    settings = MEMORIES[memory]
    population = [network(task, options.neurons, bits, seed) for seed in range(options.population)]
    evaluator = MlxEvaluator(task, settings, cache_bytes=0)
    reading = part_reading(task, settings, "validation")
    clusters = [cluster for genome in population for cluster in clusters_of(genome)]
    bill = bill_of(evaluator.launches(clusters, reading))
    evaluator.cluster_votes(clusters[:1], reading)  # compiles
    processor = create_evaluator(task, settings, backend="cpu", cache_bytes=0)
    processor.evaluate(population[0])
    times = take_turns(
        {
            "votes": lambda: evaluator.cluster_votes(clusters, reading),
            "evaluate": lambda: evaluator.evaluate_batch(population),
            "cpu": lambda: processor.evaluate_batch(population[:2]),
        },
        options.repeats,
    )
    seconds = {name: least.wall for name, least in times.items()}
    rate = bill.bytes / seconds["votes"]
    return {
        "memory": memory,
        "bits": bits,
        "launches": bill.launches,
        "bytes": bill.bytes,
        "operations": bill.operations,
        "votes_seconds": seconds["votes"],
        "ns_per_pair": 1e9 * seconds["votes"] / bill.pairs,
        "bytes_per_second": rate,
        "share_of_copy": rate / bandwidth,
        "operations_per_second": bill.operations / seconds["votes"],
        "genomes_per_second": len(population) / seconds["evaluate"],
        "cpu_genomes_per_second": len(population[:2]) / seconds["cpu"],
    }


def moves_row(task: Task, settings: MemorySettings, options: argparse.Namespace) -> Row:
    """Return how many one-slot changes of a known genome are scored per second."""
    genome = network(task, options.neurons, 16)
    rng = np.random.default_rng(5)

    def candidates(seed: int) -> list[Genome]:
        return [
            rewired(genome, i % task.n_clusters, rng.integers(0, options.neurons, 1), seed + i)
            for i in range(options.moves)
        ]

    row: Row = {"moves": options.moves}
    for name in ("mlx", "cpu"):
        evaluator = create_evaluator(task, settings, backend=name)
        evaluator.evaluate(genome)
        best = np.inf
        for turn in range(options.repeats):
            batch = candidates(1 + turn * options.moves)
            started = time.perf_counter()
            evaluator.evaluate_batch(batch)
            best = min(best, time.perf_counter() - started)
        row[f"{name}_moves_per_second"] = options.moves / best
    return row


def show(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return everything.

    Args:
        options: ``examples`` (two numbers), ``neurons``, ``population``, ``moves``,
            ``copy_bytes`` and ``repeats``.
    """
    device = dict(mx.device_info(mx.gpu))
    bandwidth = copy_bandwidth(options.copy_bytes)
    print(f"{device.get('device_name')}: a copy moves {bandwidth / 1e9:.1f} GB/s")
    task = text_like(*options.examples)
    print(
        f"{options.population} genomes of {task.n_clusters} x {options.neurons} neurons, "
        f"{options.examples[0]:,} + {options.examples[1]:,} examples"
    )
    heading = ("launches", "GB", "Gops", "votes s", "ns/pair", "GB/s", "of copy", "Gops/s")
    print(("{:>14}{:>5}" + "{:>10}" * 10).format("memory", "bits", *heading, "gen/s", "cpu"))
    rows = []
    for memory in MEMORIES:
        for bits in WIDTHS:
            row = population_row(task, memory, bits, bandwidth, options)
            rows.append(row)
            cells = (
                row["bytes"] / 1e9,
                row["operations"] / 1e9,
                row["votes_seconds"],
                row["ns_per_pair"],
                row["bytes_per_second"] / 1e9,
                row["share_of_copy"],
                row["operations_per_second"] / 1e9,
                row["genomes_per_second"],
                row["cpu_genomes_per_second"],
            )
            figures = "".join(f"{cell:10.3f}" for cell in cells)
            print(f"{memory:>14}{bits:>5}{row['launches']:>10}{figures}", flush=True)
    moves = {memory: moves_row(task, settings, options) for memory, settings in MEMORIES.items()}
    for memory, row in moves.items():
        print(
            f"{memory:>14}: {row['moves']} one-slot moves scored together, per second: "
            f"mlx {row['mlx_moves_per_second']:,.0f}, cpu {row['cpu_moves_per_second']:,.0f}"
        )
    return {"device": device, "copy_bandwidth": bandwidth, "populations": rows, "moves": moves}
