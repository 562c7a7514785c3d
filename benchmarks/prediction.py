"""What a prediction costs beside an evaluation: CPU seconds per neuron and example, in one run.

An evaluation trains neurons on some examples and reads others; its cost is divided by both. A
prediction only reads, packed inputs but where it says "from bits". Both are of one thread, turn
about, the best of several repeats; the number in brackets is the share of an evaluation's.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

from workloads import MEMORIES
from workloads import images_like
from workloads import network
from workloads import text_like

from optuna_wnn import RAMNetwork
from optuna_wnn.evaluators.cpu import CpuEvaluator
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import unpack_bits


def measure(
    task: Task, memory: MemorySettings, neurons: int, bits: int, repeats: int
) -> dict[str, float]:
    """Return nanoseconds per neuron and example: of an evaluation's votes, and of predictions."""
    genome = network(task, neurons, bits)
    evaluator = CpuEvaluator(task, memory, threads=1, cache_bytes=0)
    clusters, reading = clusters_of(genome), part_reading(task, memory, "validation")
    model = RAMNetwork.for_task(task, genome, memory, threads=1)
    model.fit(task.train.inputs, task.train.targets)
    inputs = task.validation.inputs
    bits_of = unpack_bits(inputs, task.n_inputs).astype(bool)
    steps: dict[str, tuple[Callable[[], Any], int]] = {
        "evaluation": (
            lambda: evaluator.cluster_votes(clusters, reading),
            len(task.train) + len(inputs),
        ),
        "votes": (lambda: model._sums(range(task.n_clusters), inputs), len(inputs)),
        "predict": (lambda: model.predict(inputs), len(inputs)),
        "from bits": (lambda: model.predict(bits_of), len(inputs)),
    }
    if model.lists_probabilities:
        steps["predict_proba"] = (lambda: model.predict_proba(inputs), len(inputs))
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        for name, (function, n_examples) in steps.items():
            start = time.process_time()
            function()
            spent = (time.process_time() - start) / n_examples / genome.n_neurons
            best[name] = min(best[name], spent * 1e9)
    return {**best, "KiB": model.size_kib}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--neurons", type=int, default=8)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, ns per neuron and example")
    shown = ("votes", "predict", "from bits", "predict_proba")
    heads = "".join(f"{name:>16}" for name in shown)
    print(f"task         memory         bits  evaluation{heads}      KiB")
    for task in (text_like(), images_like()):
        for name, memory in MEMORIES.items():
            for bits in (8, 12, 16):
                row = measure(task, memory, options.neurons, bits, options.repeats)
                unit = row["evaluation"]
                cells = "".join(
                    f"{row[step]:9.2f} ({row[step] / unit:4.2f})" if step in row else 16 * " "
                    for step in shown
                )
                print(
                    f"{task.name:12} {name:14} {bits:4}  {unit:10.2f}{cells} {row['KiB']:8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
