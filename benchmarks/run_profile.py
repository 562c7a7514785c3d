"""Where the seconds of a run go: evaluation, storage, compression, progress, and the rest.

A six-phase run is executed in this process with a clock around the parts of the package. Time
in a part that another part calls is the inner one's. CPU seconds of the whole process, so an
evaluation on two threads counts twice, and other programs on the machine count little.

    python benchmarks/run_profile.py
    python benchmarks/run_profile.py --trials 50 --share 0.05 --storage memory:
"""

from __future__ import annotations

import argparse
import functools
import platform
import tempfile
import time
from collections import Counter
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from sqlalchemy import event

from optuna_wnn import open_storage
from optuna_wnn import packing
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import quieten_optuna
from optuna_wnn.rdb import TrialTables
from optuna_wnn.tasks import load_task


class Clock:
    """CPU seconds and calls by part; the innermost part that runs is the one that is charged."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._stack = ["sampler and the rest"]
        self._since = time.process_time()

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def start(self) -> None:
        """Begin anew."""
        self._charge()
        self.seconds.clear()
        self.calls.clear()

    def stop(self) -> None:
        """Charge what has passed."""
        self._charge()

    def around(self, part: str, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that is charged to a part."""

        @functools.wraps(function)
        def clocked(*args: Any, **options: Any) -> Any:
            self._charge()
            self._stack.append(part)
            self.calls[f"{part}: {name}"] += 1
            try:
                return function(*args, **options)
            finally:
                self._charge()
                self._stack.pop()

        return clocked


def clock_storage(clock: Clock, storage: BaseStorage) -> None:
    """Charge every method that a storage has for Optuna."""
    for name in dir(BaseStorage):
        if not name.startswith("_") and callable(getattr(storage, name)):
            setattr(storage, name, clock.around("storage", getattr(storage, name), name))


def clock_evaluator(clock: Clock, evaluator: Evaluator) -> None:
    """Charge evaluation and refinement."""
    for name in ("evaluate", "refine"):
        method = clock.around("evaluation", getattr(evaluator, name), name)
        object.__setattr__(evaluator, name, method)


def clock_rdb(clock: Clock) -> None:
    """Charge what is written into a relational database."""
    for name in ("add", "finish"):
        setattr(TrialTables, name, clock.around("storage", getattr(TrialTables, name), name))


def clock_packing(clock: Clock) -> None:
    """Charge the compression of genomes."""
    for name in ("pack", "unpack"):
        setattr(packing, name, clock.around("compression", getattr(packing, name), name))


def count_queries(storage: BaseStorage) -> Counter[str]:
    """Return a count of statements and commits, which grows while an RDB storage is used."""
    counts: Counter[str] = Counter()
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        event.listen(engine, "before_cursor_execute", lambda *_: counts.update(["statements"]))
        event.listen(engine, "commit", lambda *_: counts.update(["transactions"]))
    return counts


def configuration(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the run: six phases over a share of the text that ships with Python."""
    half = chosen.share / 4
    return {
        "name": "profile",
        "seed": 1,
        "threads": 1,
        "task": {
            "kind": "python-docs",
            "context": 8,
            "split": [round(chosen.share, 6), round(half, 6), round(1 - chosen.share - half, 6)],
        },
        "memory": {"mode": "frequency", "vote": "confidence"},
        "space": {"neurons": [8, 20], "bits": [8, 18], "start_neurons": 14, "start_bits": 14},
        "search": {"trials": chosen.trials, "population_size": 20, "n_neighbors": 20},
    }


def main() -> None:
    """Run and print the breakdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=334, help="per phase, of six")
    parser.add_argument("--share", type=float, default=0.03, help="of the text to learn from")
    parser.add_argument("--storage", help="a URL; by default a new SQLite file")
    chosen = parser.parse_args()
    quieten_optuna()
    document = configuration(chosen)
    config = parse_config(document)
    task = load_task(config.task.kind, **config.task.options)
    evaluator = create_evaluator(task, config.memory, threads=1)
    spent = Clock()
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(chosen.storage or f"sqlite:///{Path(folder) / 'run.db'}")
        queries = count_queries(storage)
        search = PhasedSearch(config, storage, task=task, evaluator=evaluator)
        warm = parse_config({**document, "name": "warm", "search": {"trials": 20}})
        PhasedSearch(warm, storage, task=task, evaluator=evaluator).run()
        clock_storage(spent, storage)
        clock_evaluator(spent, evaluator)
        clock_packing(spent)
        clock_rdb(spent)
        queries.clear()
        search._tell = spent.around("progress", search._tell, "tell")  # type: ignore[method-assign]
        started = time.perf_counter()
        spent.start()
        search.run()
        spent.stop()
        wall = time.perf_counter() - started
    n_trials = 6 * chosen.trials
    whole = sum(spent.seconds.values())
    print(
        f"{platform.machine()}, Python {platform.python_version()}, Optuna {optuna.__version__}; "
        f"{n_trials} trials in {wall:.1f} s, {whole:.1f} CPU s"
    )
    for part, seconds in sorted(spent.seconds.items(), key=lambda item: -item[1]):
        per_trial = 1000 * seconds / n_trials
        print(f"{part:22} {per_trial:8.2f} ms a trial {100 * seconds / whole:6.1f} %")
    for name, count in [*spent.calls.most_common(), *queries.most_common()]:
        if count >= n_trials / 20:
            print(f"  {name:52} {count / n_trials:8.2f} a trial")


if __name__ == "__main__":
    main()
