"""How long evaluations take: every backend, plain C, NumPy and a peer, side by side in one run.

python benchmarks/evaluation.py [--json FILE] [--repeats N] [--wisard-python PYTHON]

What is compared takes turns and the best of each counts, so a busy machine does little harm.
``PYTHON`` is an interpreter that has ``wisardpkg`` (``pip install --no-build-isolation wisardpkg``
where pybind11 is installed).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from limit import Limit
from numpy.typing import NDArray

from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.base import usable_processors
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import unpack_bits


Row = dict[str, Any]

WIDTHS = (8, 12, 16, 20)
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


def take_turns(things: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each of some things, done in turn."""
    best = dict.fromkeys(things, np.inf)
    for _ in range(repeats):
        for name, thing in things.items():
            started = time.perf_counter()
            thing()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: float(seconds) for name, seconds in best.items()}


def votes_of(evaluator: Evaluator, genome: Genome, reading: Reading) -> Callable[[], object]:
    clusters = clusters_of(genome)
    return lambda: evaluator.cluster_votes(clusters, reading)


def rows_of(task: Task, genome: Genome, memory: str, limit: Limit | None, repeats: int) -> Row:
    """Return seconds and ns per (neuron, example) of whatever can compute one network."""
    settings, n_neurons = MEMORIES[memory], genome.n_neurons
    evaluator = create_evaluator(task, settings, backend="cpu", cache_bytes=0)
    whole = part_reading(task, settings, "validation")
    empty = Examples(task.validation.inputs[:0], task.validation.targets[:0])
    nothing = Reading("nothing", len(task.train), empty)
    things: dict[str, Callable[[], object]] = {
        "cpu": lambda: evaluator.evaluate(genome),
        "cpu votes": votes_of(evaluator, genome, whole),
        "cpu train": votes_of(evaluator, genome, nothing),
    }
    kind = evaluator.cells.kind
    variants = limit.variants(kind, task.train.inputs.shape[1]) if limit else []
    if limit is not None and variants:
        train, read = (
            np.ascontiguousarray(part.inputs.T) for part in (task.train, task.validation)
        )
        none = np.zeros((len(read), 0), np.uint64)
        positives = np.stack(
            [evaluator.trained_positives(whole, k) for k in range(task.n_clusters)]
        )
        wiring = np.stack([genome.cluster(k) for k in range(task.n_clusters)])
        sums = np.stack(
            [votes.sums for votes in evaluator.cluster_votes(clusters_of(genome), whole)]
        )
        for variant in variants:
            assert np.array_equal(limit.run(variant, train, positives, read, wiring), sums)
            things[f"{variant} whole"] = lambda v=variant: limit.run(  # type: ignore[misc]
                v, train, positives, read, wiring
            )
            things[f"{variant} train"] = lambda v=variant: limit.run(  # type: ignore[misc]
                v, train, positives, none, wiring
            )
    evaluator.evaluate(genome)  # compiles
    seconds = take_turns(things, repeats)
    pairs = n_neurons * len(task.train), n_neurons * len(task.validation)

    def figures(whole: float, train: float) -> Row:
        return {
            "seconds": whole,
            "train_ns": 1e9 * train / pairs[0],
            "validate_ns": 1e9 * max(whole - train, 0) / pairs[1],
        }

    row: Row = {
        "task": task.name,
        "memory": memory,
        "neurons": n_neurons,
        "bits": int(genome.bits[0]),
        "evaluate_seconds": seconds["cpu"],
        "cpu": figures(seconds["cpu votes"], seconds["cpu train"]),
    }
    if variants:
        best = min(variants, key=lambda variant: seconds[f"{variant} whole"])
        least = min(seconds[f"{variant} train"] for variant in variants)
        row["c"] = figures(seconds[f"{best} whole"], least) | {"variant": best}
        row["cpu_to_c"] = seconds["cpu votes"] / seconds[f"{best} whole"]
    row["numpy"] = numpy_seconds(task, genome, settings)
    row["numpy_to_cpu"] = row["numpy"] / seconds["cpu votes"]
    return row


def numpy_seconds(task: Task, genome: Genome, settings: MemorySettings) -> float:
    """Return what NumPy would need, scaled up from what two neurons more take it."""
    reference = create_evaluator(task, settings, backend="reference", cache_bytes=0)
    reading = part_reading(task, settings, "validation")

    def few(n_neurons: int) -> Callable[[], object]:
        alone = Genome.of_clusters([genome.cluster(0)[:n_neurons]])
        return votes_of(reference, alone, reading)

    seconds = take_turns({"one": few(1), "three": few(3)}, 2)
    return genome.n_neurons * max(seconds["three"] - seconds["one"], 0) / 2


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


def incremental_row(task: Task, memory: str, repeats: int) -> Row:
    """Return what relatives of known genomes cost, as shares of a full evaluation."""
    parents = [network(task, 200, 16, seed) for seed in (1, 2)]
    plain, caching = (
        create_evaluator(task, MEMORIES[memory], backend="cpu", cache_bytes=size)
        for size in (0, None)
    )
    caching.evaluate_batch(parents)
    rng = np.random.default_rng(3)
    best = dict.fromkeys(("full", "tabu neighbour", "crossover child", "mutated child"), np.inf)
    for turn in range(4 * repeats):
        first = rng.random(task.n_clusters) < 0.5
        child = Genome.of_clusters(
            parents[int(first[k])].cluster(k) for k in range(task.n_clusters)
        )
        mutated = child
        for k in rng.choice(task.n_clusters, 2, replace=False):  # of 16: above one in ten
            mutated = rewired(mutated, int(k), rng.choice(200, 10, replace=False), turn)
        neighbour = rewired(parents[0], turn % 16, rng.integers(0, 200, 1), turn)
        for name, genome in zip(best, (child, neighbour, child, mutated), strict=True):
            if name == "full" and turn >= repeats:
                continue
            evaluator = plain if name == "full" else caching
            started = time.perf_counter()
            found = evaluator.evaluate(genome)
            best[name] = min(best[name], time.perf_counter() - started)
            if turn == 0:
                right = plain.evaluate(genome)
                assert found.cross_entropy == right.cross_entropy
    shares = {name: best[name] / best["full"] for name in best if name != "full"}
    return {
        "memory": memory,
        "vocabulary": task.n_outputs,
        "seconds": {name: float(seconds) for name, seconds in best.items()},
        "shares": {name: float(share) for name, share in shares.items()},
    }


_FIRST_CALL = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import numpy
import evaluation as e
task = e.text_like(2000, 500)
genome = e.network(task, 8, 8)
started = time.perf_counter()
evaluator = e.create_evaluator(task, e.MEMORIES[{memory!r}], backend="cpu")
evaluator.evaluate(genome)
print(time.perf_counter() - started)
"""


def first_call_seconds(memory: str) -> Row:
    """Return how long a new process's first evaluation takes, without and with compiled code."""
    code = _FIRST_CALL.format(benchmarks=str(Path(__file__).parent), memory=memory)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        spent = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env=environment, capture_output=True, text=True, check=True,
                ).stdout
            )
            for _ in range(2)
        ]  # fmt: skip
    return {"memory": memory, "compiled_anew": spent[0], "from_disk": spent[1]}


_WISARD = """
import sys, time
import numpy as np
import wisardpkg
data = np.load(sys.argv[1])
bits = int(sys.argv[2])
started = time.perf_counter()
train, read = data["train"].tolist(), data["read"].tolist()
targets = [str(t) for t in data["targets"]]
converted = time.perf_counter()
try:
    train, read = wisardpkg.DataSet(train, targets), wisardpkg.DataSet(read)
except TypeError:
    pass
network = wisardpkg.Wisard(bits)
if isinstance(train, wisardpkg.DataSet):
    network.train(train)
else:
    network.train(train, targets)
trained = time.perf_counter()
network.classify(read)
print(converted - started, trained - converted, time.perf_counter() - trained)
"""


def wisard_row(python: str | None, repeats: int) -> Row:
    """Return the peer's times and ours for one WiSARD of 14 bits per neuron over 784 bits."""
    bits, neurons = 14, 56
    task = images_like()
    evaluator = create_evaluator(
        task, MemorySettings(mode="wisard", vote="mean"), backend="cpu", cache_bytes=0
    )
    genome = network(task, neurons, bits)
    empty = Examples(task.validation.inputs[:0], task.validation.targets[:0])
    reading = Reading("nothing", len(task.train), empty)
    evaluator.evaluate(genome)
    ours = take_turns(
        {
            "whole": lambda: evaluator.evaluate(genome),
            "train": votes_of(evaluator, genome, reading),
        },
        repeats,
    )
    row: Row = {
        "bits": bits,
        "neurons": neurons * 10,
        "train_seconds": ours["train"],
        "predict_seconds": max(ours["whole"] - ours["train"], 0),
    }
    if python is None:
        return row | {"peer": "skipped: give --wisard-python, an interpreter that has wisardpkg"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(
            file,
            train=unpack_bits(task.train.inputs, 784),
            read=unpack_bits(task.validation.inputs, 784),
            targets=task.train.targets,
        )
        done = subprocess.run(
            [python, "-c", _WISARD, str(file), str(bits)], capture_output=True, text=True
        )
    if done.returncode:
        return row | {"peer": f"skipped: {done.stderr.strip().splitlines()[-1]}"}
    convert, train, predict = (float(word) for word in done.stdout.split())
    return row | {
        "peer": {"convert": convert, "train": train, "predict": predict},
        "train_ratio": train / row["train_seconds"],
        "predict_ratio": predict / row["predict_seconds"],
    }


def show_full(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and return them."""
    heading = ("memory", "bits", "evaluate", "cpu s", "train", "read", "C s", "train", "read")
    print(("{:>14}{:>5}" + "{:>10}" * 9).format(*heading, "cpu / C", "NumPy/cpu"))
    shown = []
    for row in rows:
        shown.append(row)
        cpu, c = row["cpu"], row.get("c", {})
        cells = [row["evaluate_seconds"], cpu["seconds"], cpu["train_ns"], cpu["validate_ns"]]
        cells += [c.get(name, np.nan) for name in ("seconds", "train_ns", "validate_ns")]
        cells += [row.get("cpu_to_c", np.nan), row["numpy_to_cpu"]]
        figures = "".join(f"{cell:10.3f}" for cell in cells)
        print(f"{row['memory']:>14}{row['bits']:>5}{figures}", flush=True)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wisard-python", help="an interpreter that has wisardpkg")
    options = parser.parse_args()
    threads = usable_processors()
    machine = f"{platform.machine()}, {threads} threads, Python {platform.python_version()}"
    print(f"{date.today()}, {machine}; train and read in ns per (neuron, example)")
    report: Row = {"machine": machine, "date": str(date.today())}
    with tempfile.TemporaryDirectory() as folder:
        limit = None
        try:
            limit = Limit(Path(folder), threads)
        except RuntimeError as error:
            print(f"no C limit: {error}")
        text, images = text_like(), images_like()
        print("200,000 + 50,000 examples of 64 bits, 16 clusters of 200 neurons")
        report["full"] = show_full(
            rows_of(text, network(text, 200, bits), memory, limit, options.repeats)
            for memory in MEMORIES
            for bits in WIDTHS
        )
        print("60,000 + 10,000 examples of 784 bits, 10 clusters of 100 neurons")
        report["images"] = show_full(
            rows_of(images, network(images, 100, 16), memory, limit, options.repeats)
            for memory in MEMORIES
        )
    report["incremental"] = [
        incremental_row(task, memory, options.repeats)
        for task in (text, text_like(n_outputs=50_257))
        for memory in MEMORIES
    ]
    print("relatives of known genomes, as shares of a full evaluation (16 x 200 neurons, 16 bits)")
    for row in report["incremental"]:
        shares = ", ".join(f"{name} {100 * s:.2f} %" for name, s in row["shares"].items())
        print(f"{row['memory']:>14}, {row['vocabulary']:,} codes: {shares}")
    report["first_call"] = [first_call_seconds(memory) for memory in MEMORIES]
    for row in report["first_call"]:
        print(
            f"first evaluation in a new process, {row['memory']}: {row['compiled_anew']:.1f} s, "
            f"with code from disk {row['from_disk']:.2f} s"
        )
    report["wisardpkg"] = wisard_row(options.wisard_python, options.repeats)
    print(f"wisardpkg: {report['wisardpkg']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
