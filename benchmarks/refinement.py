"""How many moves refinement makes per second, beside evaluating a genome for each move.

python benchmarks/refinement.py [--json FILE] [--moves N] [--repeats N] [--threads N] [--mnist DIR]

``DIR`` has MNIST's four gzipped idx files; without it, random images of the same shape are used.
Moves per CPU second are of all threads together. They are divided by the CPU time of one more
evaluation of a genome whose clusters have all changed, in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import time
from collections.abc import Iterator
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from workloads import images_like
from workloads import network
from workloads import text_like

from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.base import usable_processors
from optuna_wnn.genome import Bounds
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks import load_task
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import pack_bits


Row = dict[str, Any]

_THRESHOLD = 60  # above which a pixel is 1


def mnist(folder: Path) -> Task:
    """Return MNIST with one threshold for all pixels."""

    def read(name: str, header: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes())[header:], np.uint8)

    def part(name: str) -> Examples:
        images = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        labels = read(f"{name}-labels-idx1-ubyte.gz", 8)
        return Examples(pack_bits(images > _THRESHOLD), labels.astype(np.int64))

    test = part("t10k")
    return Task("mnist", "classes", 784, 10, part("train"), test, test, (28, 28))


def cases(folder: Path | None) -> Iterator[tuple[str, Task, MemorySettings, Genome]]:
    """Yield what is refined: a name, the task, the memory and the genome to start from."""
    text = text_like()
    for mode, vote in (
        *(("frequency", vote) for vote in ("confidence", "log_odds", "mean")),
        *((mode, "mean") for mode in ("ternary", "wisard", "quad_binary", "quad_weighted")),
    ):
        memory = MemorySettings(mode=mode, vote=vote)  # type: ignore[arg-type]
        yield f"text-like {mode} {vote}", text, memory, network(text, 200, 16)
    docs = load_task("python-docs")
    yield "python-docs frequency confidence", docs, MemorySettings(), network(docs, 16, 16)
    images = mnist(folder) if folder else images_like()
    memory = MemorySettings(vote="log_odds", fitness_on="leave_one_out")
    yield f"{images.name} log_odds leave-one-out", images, memory, network(images, 40, 8)


def measure(
    task: Task, memory: MemorySettings, genome: Genome, moves: int, threads: int, repeats: int
) -> Row:
    """Return the speed of refinement and of evaluation, the best of ``repeats`` each."""
    bounds = Bounds(task.n_clusters, task.n_inputs, (1, 200), (1, 16))
    evaluator = create_evaluator(task, memory, backend="cpu", threads=threads, cache_bytes=1 << 28)
    evaluator.refine(genome, bounds, {"connections"}, 1, 0)  # compiles
    best = [np.inf] * 4
    for seed in range(repeats):
        plain = create_evaluator(task, memory, backend="cpu", threads=threads, cache_bytes=0)
        started, spent = time.perf_counter(), time.process_time()
        plain.evaluate(genome)
        found = [time.perf_counter() - started, time.process_time() - spent]
        started, spent = time.perf_counter(), time.process_time()
        evaluator.refine(genome, bounds, {"connections"}, moves, seed + 1)
        found += [time.perf_counter() - started, time.process_time() - spent]
        best = [min(pair) for pair in zip(best, found, strict=True)]
    evaluated, evaluated_cpu, refined, refined_cpu = best
    return {
        "moves": moves,
        "moves_per_second": moves / refined,
        "moves_per_cpu_second": moves / refined_cpu,
        "evaluation_seconds": evaluated,
        "evaluation_cpu_seconds": evaluated_cpu,
        "times_evaluation": evaluated_cpu * moves / refined_cpu,
    }


def show(folder: Path | None, only: Sequence[str], moves: int, repeats: int, threads: int) -> Row:
    """Print and return what :func:`measure` finds, by case; only of cases named so."""
    rows: Row = {}
    for name, task, memory, genome in cases(folder):
        if any(part in name for part in only):
            row = rows[name] = measure(task, memory, genome, moves, threads, repeats)
            print(
                f"{name:>36}: {row['moves_per_second']:8.0f} moves/s "
                f"{row['moves_per_cpu_second']:8.0f} per CPU second, "
                f"{row['times_evaluation']:7.0f} times evaluation",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--moves", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's gzipped idx files")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    machine = (
        f"{platform.machine()}, {options.threads} threads, Python {platform.python_version()}"
    )
    print(f"{date.today()}, {machine}, {options.moves} moves, set-up included")
    report: Row = {"machine": machine, "date": str(date.today())}
    report["rows"] = show(
        options.mnist, [options.only], options.moves, options.repeats, options.threads
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
