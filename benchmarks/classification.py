"""Classification at equal model size: WiSARD, random wiring, hill climbing, and a search.

Every method has the same shape: a neuron of 8 bits for each 8 input bits, in every class, and
sees the same bits of the same rows. One command per data set, resumed by running it again:

    python benchmarks/classification.py iris --data DATA --wisard PYTHON --json results.json

DATA holds the folders ``iris``, ``wine``, ``vowel`` and ``segment`` of UCI's files and ``mnist``;
PYTHON is an interpreter that has ``wisardpkg`` and NumPy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from refinement import mnist

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import report
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.genome import Genome
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import unpack_bits
from optuna_wnn.tasks.encoding import learn_encoding
from optuna_wnn.tasks.encoding import packed


Table = tuple[NDArray[np.float64], NDArray[Any]]  # features and labels

_BITS = 8  # of a neuron
_THRESHOLDS = 8  # of a feature
_MEMORY = MemorySettings(vote="log_odds", temperature="fit", fitness_on="leave_one_out")
_KEYS = ("set", "seed", "method")
_WISARD = """
import sys
import numpy as np
import wisardpkg
data = np.load(sys.argv[1])
model = wisardpkg.Wisard(int(sys.argv[2]), bleachingActivated=True)
model.train(data["train"].tolist(), [str(t) for t in data["targets"]])
print(*model.classify(data["test"].tolist()))
"""


def _columns(file: Path, separator: str | None, label: int, first: int, last: int) -> Table:
    """Return the numbers of some columns of a text file, and its labels."""
    lines = [line.split(separator) for line in file.read_text().splitlines() if line.strip()]
    numbers = [[float(cell) for cell in line[first : last or None]] for line in lines]
    return np.array(numbers), np.array([line[label].strip() for line in lines])


def _digits(folder: Path) -> Table:
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    return features, labels


SETS: dict[str, Callable[[Path], Table]] = {
    "iris": lambda folder: _columns(folder / "iris" / "bezdekIris.data", ",", -1, 0, -1),
    "wine": lambda folder: _columns(folder / "wine" / "wine.data", ",", 0, 1, 0),
    "vowel": lambda folder: _columns(folder / "vowel" / "vowel-context.data", None, -1, 3, -1),
    "segment": lambda folder: _columns(folder / "segment" / "segment.dat", None, -1, 0, -1),
    "digits": _digits,
}


def prepared(name: str, folder: Path, seed: int) -> Task:
    """Return a set as a task: two thirds of its rows train, drawn by ``seed``; MNIST has parts."""
    if name == "mnist":
        return mnist(folder / "mnist")
    features, labels = SETS[name](folder)
    classes, targets = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    rows = np.split(order, [round(len(order) * 2 / 3)])
    code = learn_encoding("quantile", features[rows[0]], _THRESHOLDS)
    train, test = (Examples(packed(code, features[r]), targets[r].astype(np.int64)) for r in rows)
    n_inputs = features.shape[1] * _THRESHOLDS
    groups = (features.shape[1], _THRESHOLDS)
    return Task(name, "classes", n_inputs, len(classes), train, test, test, groups)


def random_wiring(task: Task, seed: int) -> Genome:
    """Return clusters of the common shape, wired at random."""
    neurons = -(-task.n_inputs // _BITS)
    space = GenomeSpace.for_task(task, neurons=neurons, bits=_BITS)
    return space.sample(np.random.default_rng(seed))


def climbed(task: Task, seed: int, moves: int) -> Genome:
    """Return random wiring after a plain hill climb on the left-out training examples."""
    start = random_wiring(task, seed)
    neurons = start.neurons[0].item()
    bounds = GenomeSpace.for_task(task, neurons=neurons, bits=_BITS).bounds
    return create_evaluator(task, _MEMORY).refine(start, bounds, ["connections"], moves, seed)[0]


def searched(task: Task, seed: int, moves: int) -> Genome:
    """Return the best wiring of a genetic and a tabu phase that make as many moves in all."""
    trials = 10
    config = parse_config(
        {
            "name": task.name,
            "seed": seed,
            "storage": "memory:",
            "task": {"kind": task.name},
            "space": {"neurons": -(-task.n_inputs // _BITS), "bits": _BITS},
            "search": {
                "trials": trials,
                "population_size": 4,
                "n_neighbors": 5,
                "refine_steps": moves // (2 * trials),
                "refine_moves": "informed",
            },
            "phases": [
                {"method": "ga", "free": "connections"},
                {"method": "ts", "free": "connections"},
            ],
        }
    ).model_copy(update={"memory": _MEMORY})
    search = PhasedSearch(config, task=task)
    search.run()
    return report.best_genome(search.storage, task.name)


def wisard_accuracy(task: Task, python: str) -> float:
    """Return the test accuracy of a plain WiSARD with bleaching, by ``wisardpkg``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        train, test = (unpack_bits(p.inputs, task.n_inputs) for p in (task.train, task.test))
        np.savez(file, train=train, test=test, targets=task.train.targets)
        done = subprocess.run(
            [python, "-c", _WISARD, str(file), str(_BITS)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(np.mean([int(word) for word in done.stdout.split()] == task.test.targets))


def measure(task: Task, method: str, seed: int, moves: int, python: str | None) -> dict[str, Any]:
    """Return what a method reaches on the test part, and what it took."""
    started = time.process_time()
    genome = random_wiring(task, seed)
    if method == "wisard":
        assert python is not None
        accuracy = wisard_accuracy(task, python)
    else:
        if method == "hill climb":
            genome = climbed(task, seed, moves)
        elif method == "search":
            genome = searched(task, seed, moves)
        accuracy = create_evaluator(task, _MEMORY).evaluate(genome, "test").accuracy
    seconds = round(time.process_time() - started, 2)
    kib = round(_MEMORY.kib(genome), 1)
    return {"accuracy": round(accuracy, 4), "kib": kib, "seconds": seconds, "moves": moves}


def table(records: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation of the test accuracy by set and method, as Markdown."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    lines = [
        f"| set | KiB | seeds | {' | '.join(methods)} |",
        f"| --- |{' ---: |' * (len(methods) + 2)}",
    ]
    for name in dict.fromkeys(r["set"] for r in records):
        own = [r for r in records if r["set"] == name]
        cells = []
        for method in methods:
            found = [r["accuracy"] for r in own if r["method"] == method]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found):.3f}" if found else "")
        n_seeds = len({r["seed"] for r in own})
        lines.append(f"| {name} | {own[0]['kib']} | {n_seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=[*SETS, "mnist"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--moves", type=int, default=4000, help="of hill climb and search, each")
    parser.add_argument("--wisard", metavar="PYTHON", help="has wisardpkg; left out without")
    parser.add_argument("--json", type=Path, help="the results: what is there is not run again")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    records: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        records = json.loads(options.json.read_text())
    done = {tuple(r[key] for key in _KEYS) for r in records}
    methods = [*(["wisard"] if options.wisard else []), "random", "hill climb", "search"]
    for name in options.sets:
        for seed in range(options.seeds):
            task = prepared(name, options.data, seed)
            for method in methods:
                if (name, seed, method) in done:
                    continue
                found = measure(task, method, seed, options.moves, options.wisard)
                records.append({"set": name, "seed": seed, "method": method, **found})
                print(f"{name:8} seed {seed}  {method:10}  {found}", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(records, indent=0))
    print(table(records))


if __name__ == "__main__":
    main()
