"""What the ``mlx`` backend does on this machine's GPU, beside what its memory could do.

python benchmarks/evaluation.py --backend mlx

For populations of genomes: what their launches have to move and to compute, how fast they do, and
how that compares with a plain copy on the same GPU and with the ``cpu`` backend.
"""

from __future__ import annotations

import time
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

from optuna_wnn.errors import InputError
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.gpu_plan import Part
from optuna_wnn.evaluators.gpu_plan import Wiring
from optuna_wnn.evaluators.gpu_plan import Work
from optuna_wnn.evaluators.mlx import MlxEvaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task


if TYPE_CHECKING:
    import argparse

# Integer instructions, counted in the kernels' text.
_PER_BIT: Final = 6  # of an address: its input's number, shift, mask, shift, or, compare
_PER_PAIR: Final = 20  # what each neuron does once per example, besides its address
_PER_STEP: Final = 50  # to find who addresses the same cell, where order matters


def bill_of(launch: tuple[Work, list[Wiring], list[Part]]) -> Row:
    """Return what a launch must at least move and compute.

    Returns:
        ``bytes`` (tables made and filled, cells looked up, sums and scores; not the examples: all
        neurons read the same ones, and caches hold them), ``operations`` (integer instructions)
        and ``pairs`` (of a neuron and an example).
    """
    work, clusters, parts = launch
    row = dict.fromkeys(("bytes", "operations", "pairs"), 0)
    cell = work.cell_bytes * work.cell_words
    for part in parts:
        wiring, n = clusters[part.place], part.last - part.first
        written, read = n * work.n_written, n * work.turn.size
        n_bits = wiring.connections.shape[1]
        row["bytes"] += n * work.of_neuron(n_bits).bytes + work.of_part(wiring).bytes
        row["bytes"] += written * 2 * work.cell_bytes + read * cell
        row["operations"] += (written + read) * (_PER_BIT * n_bits + _PER_PAIR)
        if not work.cells.counting:
            row["operations"] += written * _PER_STEP
        row["pairs"] += written + read
    return row


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
    """Return how fast a population of random genomes is evaluated.

    Raises:
        InputError: If the GPU's memory does not hold a single neuron.
    """
    settings = MEMORIES[memory]
    population = [network(task, options.neurons, bits, seed) for seed in range(options.population)]
    evaluator = MlxEvaluator(task, settings, cache_bytes=0, device_bytes=options.device_bytes)
    reading = part_reading(task, settings, "validation")
    clusters = [cluster for genome in population for cluster in clusters_of(genome)]
    bills = [bill_of(launch) for launch in evaluator.launches(clusters, reading)]
    total = {name: sum(bill[name] for bill in bills) for name in bills[0]}
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
    rate = total["bytes"] / seconds["votes"]
    return {
        "memory": memory,
        "bits": bits,
        "launches": bills,
        **total,
        "votes_seconds": seconds["votes"],
        "ns_per_pair": 1e9 * seconds["votes"] / total["pairs"],
        "bytes_per_second": rate,
        "share_of_copy": rate / bandwidth,
        "operations_per_second": total["operations"] / seconds["votes"],
        "genomes_per_second": len(population) / seconds["evaluate"],
        "cpu_genomes_per_second": len(population[:2]) / seconds["cpu"],
    }


class _Counting(MlxEvaluator):
    """Counts the launches of what is evaluated."""

    launched = 0

    def launches(self, *call: Any) -> list[tuple[Work, list[Wiring], list[Part]]]:
        planned = super().launches(*call)
        self.launched += len(planned)
        return planned


def moves_row(task: Task, settings: MemorySettings, options: argparse.Namespace) -> Row:
    """Return how many one-slot changes of a known genome are scored, and tried, per second.

    Scored: as genomes of a batch, each with its cross-entropy. Tried: by refinement.
    """
    bits = min(16, max(WIDTHS))
    genome = network(task, options.neurons, bits)
    bounds = Bounds(task.n_clusters, task.n_inputs, (1, options.neurons), (1, bits))
    rng = np.random.default_rng(5)

    def candidates(seed: int) -> list[Genome]:
        return [
            rewired(genome, i % task.n_clusters, rng.integers(0, options.neurons, 1), seed + i)
            for i in range(options.moves)
        ]

    row: Row = {"moves": options.moves, "refine_moves": options.refine_moves}
    gpu = _Counting(task, settings, device_bytes=options.device_bytes)
    cpu = create_evaluator(task, settings, backend="cpu")
    for name, evaluator in (("mlx", gpu), ("cpu", cpu)):
        evaluator.refine(genome, bounds, {"connections"}, 1, 0)  # compiles, and is known then
        scored = tried = np.inf
        for turn in range(options.repeats):
            batch = candidates(1 + turn * options.moves)
            gpu.launched = 0
            started = time.perf_counter()
            evaluator.evaluate_batch(batch)
            scored = min(scored, time.perf_counter() - started)
            row.setdefault("launches", gpu.launched)
            started = time.perf_counter()
            evaluator.refine(genome, bounds, {"connections"}, options.refine_moves, turn + 1)
            tried = min(tried, time.perf_counter() - started)
        row[f"{name}_moves_per_second"] = options.moves / scored
        row[f"{name}_refined_per_second"] = options.refine_moves / tried
    return row


def show(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return everything.

    Args:
        options: ``examples`` (two numbers), ``neurons``, ``population``, ``moves``,
            ``refine_moves``, ``copy_bytes``, ``device_bytes`` and ``repeats``.
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
            try:
                row = population_row(task, memory, bits, bandwidth, options)
            except InputError as error:
                print(f"{memory:>14}{bits:>5} {error}", flush=True)
                continue
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
            print(f"{memory:>14}{bits:>5}{len(row['launches']):>10}{figures}", flush=True)
    moves = {}
    for memory, settings in MEMORIES.items():
        try:
            moves[memory] = row = moves_row(task, settings, options)
        except InputError as error:
            print(f"{memory:>14}: {error}", flush=True)
            continue
        print(
            f"{memory:>14}: {row['moves']} one-slot moves scored in {row['launches']} launches, "
            f"per second: mlx {row['mlx_moves_per_second']:,.0f}, "
            f"cpu {row['cpu_moves_per_second']:,.0f}; {row['refine_moves']} tried by refinement: "
            f"mlx {row['mlx_refined_per_second']:,.0f}, cpu {row['cpu_refined_per_second']:,.0f}",
            flush=True,
        )
    return {"device": device, "copy_bandwidth": bandwidth, "populations": rows, "moves": moves}
