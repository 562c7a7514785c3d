"""How long evaluations take: every backend, plain C, NumPy and a peer, side by side in one run.

python benchmarks/evaluation.py [--json FILE] [--repeats N] [--wisard-python PYTHON] [--mnist DIR]
    [--parts …]
python benchmarks/evaluation.py --backend mlx [--json FILE] [--repeats N]

What is compared takes turns and the least of each counts. Seconds are CPU seconds of all threads
over the number of processors, so other programs do little harm: on free processors the clock
shows the same, but for the wait for the last thread. Refinement is measured as by
``refinement.py``, which says what ``DIR`` is. ``PYTHON`` is an interpreter that has
``wisardpkg`` (``pip install --no-build-isolation wisardpkg`` where pybind11 is installed), by
default this one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
import refinement
from limit import Limit
from peer import wisard_row
from workloads import MEMORIES
from workloads import Row
from workloads import images_like
from workloads import network
from workloads import rewired
from workloads import spent
from workloads import take_turns
from workloads import text_like
from workloads import votes_of

from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.evaluators.base import usable_processors
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.readings import part_reading
from optuna_wnn.evaluators.votes import clusters_of
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task


WIDTHS = (8, 12, 16, 20)
_MOVES = 8000
_REFINED = ("text-like frequency confidence", "python-docs", "leave-one-out")
PARTS = ("full", "images", "incremental", "first_call", "tokens", "refine", "wisardpkg")


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
    times = take_turns(things, repeats)
    seconds = {name: least.cpu for name, least in times.items()}
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
        "evaluate_wall_seconds": times["cpu"].wall,
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
    """Return what NumPy would need on one processor, scaled up from what two neurons take."""
    reference = create_evaluator(task, settings, backend="reference", cache_bytes=0)
    reading = part_reading(task, settings, "validation")

    def few(n_neurons: int) -> Callable[[], object]:
        alone = Genome.of_clusters([genome.cluster(0)[:n_neurons]])
        return votes_of(reference, alone, reading)

    times = take_turns({"one": few(1), "three": few(3)}, 2)
    two = (times["three"].cpu - times["one"].cpu) * usable_processors()  # NumPy uses one
    return genome.n_neurons * max(two, 0) / 2


def incremental_row(task: Task, memory: str, repeats: int) -> Row:
    """Return what relatives of known genomes cost, as shares of a full evaluation.

    All CPU seconds of a relative count as if one processor spent them.
    """
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
            seconds = spent(lambda e=evaluator, g=genome: e.evaluate(g)).cpu  # type: ignore[misc]
            if name != "full":
                seconds *= usable_processors()
            best[name] = min(best[name], seconds)
            if turn == 0:
                found, right = evaluator.evaluate(genome), plain.evaluate(genome)
                assert found.cross_entropy == right.cross_entropy
    shares = {name: best[name] / best["full"] for name in best if name != "full"}
    return {
        "memory": memory,
        "vocabulary": task.n_outputs,
        "seconds": {name: float(least) for name, least in best.items()},
        "shares": {name: float(share) for name, share in shares.items()},
    }


_FIRST_CALL = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import workloads as w
task = w.text_like(2000, 500)
genome = w.network(task, 8, 8)
started = time.process_time()
from optuna_wnn.evaluators import create_evaluator
evaluator = create_evaluator(task, w.MEMORIES[{memory!r}], backend="cpu")
evaluator.evaluate(genome)
print(time.process_time() - started)
"""


def first_call_row(memory: str) -> Row:
    """Return a new process's CPU seconds until its first result, without and with known code."""
    code = _FIRST_CALL.format(benchmarks=str(Path(__file__).parent), memory=memory)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        run = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env=environment, capture_output=True, text=True, check=True,
                ).stdout
            )
            for _ in range(2)
        ]  # fmt: skip
    return {"memory": memory, "compiled_anew": run[0], "from_disk": run[1]}


def token_row() -> Row:
    """Return what ``token_head.py`` measures in a process of its own."""
    script = Path(__file__).with_name("token_head.py")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    row: Row = json.loads(ran.stdout)
    return row


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


def machine() -> Row:
    """Return what figures depend on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "date": str(date.today()),
        "processor": model,
        "processors": usable_processors(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_before": os.getloadavg()[0],
    }


def compare_full(report: Row, parts: Iterable[str], repeats: int) -> None:
    """Print and report full evaluations beside C and NumPy."""
    with tempfile.TemporaryDirectory() as folder:
        limit = None
        try:
            limit = Limit(Path(folder), usable_processors())
        except RuntimeError as error:
            print(f"no C limit: {error}")
        if "full" in parts:
            text = text_like()
            print("200,000 + 50,000 examples of 64 bits, 16 clusters of 200 neurons")
            report["full"] = show_full(
                rows_of(text, network(text, 200, bits), memory, limit, repeats)
                for memory in MEMORIES
                for bits in WIDTHS
            )
        if "images" in parts:
            images = images_like()
            print("60,000 + 10,000 examples of 784 bits, 10 clusters of 100 neurons")
            report["images"] = show_full(
                rows_of(images, network(images, 100, 16), memory, limit, repeats)
                for memory in MEMORIES
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("cpu", "mlx"), default="cpu")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wisard-python", default=sys.executable, help="it has wisardpkg")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's gzipped idx files")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    on_gpu = parser.add_argument_group("with --backend mlx")
    on_gpu.add_argument("--examples", type=int, nargs=2, default=(200_000, 50_000))
    on_gpu.add_argument("--neurons", type=int, default=200, help="per cluster")
    on_gpu.add_argument("--population", type=int, default=50, help="genomes")
    on_gpu.add_argument("--moves", type=int, default=2000, help="scored together")
    on_gpu.add_argument("--refine-moves", type=int, default=4000)
    on_gpu.add_argument("--copy-bytes", type=int, default=1 << 28)
    on_gpu.add_argument("--device-bytes", type=int, help="as in create_evaluator")
    options = parser.parse_args(arguments)
    report: Row = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    if options.backend == "mlx":
        import gpu_evaluation

        report["gpu"] = gpu_evaluation.show(options)
    else:
        measure(report, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(report: Row, options: argparse.Namespace) -> None:
    """Print and report what the ``cpu`` backend costs."""
    parts, repeats = options.parts, options.repeats
    print("CPU seconds over the number of processors; train and read in ns per (neuron, example)")
    compare_full(report, parts, repeats)
    if "incremental" in parts:
        print("relatives of known genomes, as shares of a full evaluation (16 x 200 neurons)")
        report["incremental"] = []
        for task in (text_like(), text_like(n_outputs=50_257)):
            for memory in MEMORIES:
                row = incremental_row(task, memory, repeats)
                report["incremental"].append(row)
                shares = ", ".join(f"{name} {100 * s:.2f} %" for name, s in row["shares"].items())
                print(f"{memory:>14}, {row['vocabulary']:,} codes: {shares}", flush=True)
    if "first_call" in parts:
        report["first_call"] = [first_call_row(memory) for memory in MEMORIES]
        for row in report["first_call"]:
            print(
                f"first evaluation in a new process, {row['memory']}: compiled anew "
                f"{row['compiled_anew']:.1f} s, with code from disk {row['from_disk']:.2f} s"
            )
    if "tokens" in parts:
        report["tokens"] = token_row()
        print("a cluster of 5 neurons of 8 bits per token, 200,000 + 50,000 examples:")
        for name, value in report["tokens"].items():
            print(f"  {name}: {value}")
    if "refine" in parts:
        print(f"refinement by {_MOVES} one-slot moves, set-up included, best of {repeats}:")
        report["refine"] = refinement.show(
            options.mnist, _REFINED, _MOVES, repeats, usable_processors()
        )
    if "wisardpkg" in parts:
        report["wisardpkg"] = wisard_row(options.wisard_python, repeats)
        print(f"wisardpkg: {report['wisardpkg']}")


if __name__ == "__main__":
    main()
