"""What a sampler costs per trial: CPU time of ask + suggest + tell as a study grows.

The study searches 16 integers. It is grown through the sampler itself; what is reported is the
median CPU time of one trial over some trials at each size.

    python benchmarks/sampler_overhead.py
    python benchmarks/sampler_overhead.py --sizes 100 5000 20000 --storage memory --json x.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler

from optuna_wnn import WNNGeneticSampler
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn import open_storage


SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "RandomSampler": lambda: optuna.samplers.RandomSampler(seed=0),
    "NSGAIISampler": lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=50),
    "WNNGeneticSampler": lambda: WNNGeneticSampler(seed=0, population_size=50),
    "WNNTabuSearchSampler": lambda: WNNTabuSearchSampler(seed=0, n_neighbors=50),
}
DISTRIBUTIONS: dict[str, BaseDistribution] = {f"x{i}": IntDistribution(0, 63) for i in range(16)}


def run(study: optuna.Study, n_trials: int) -> list[float]:
    """Return the CPU milliseconds that each of some trials took."""
    spent = []
    for _ in range(n_trials):
        started = time.process_time()
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, sum(abs(x - 20) for x in trial.params.values()))
        spent.append(1000 * (time.process_time() - started))
    return spent


def measure(sampler: str, storage: str, sizes: list[int], n_timed: int) -> dict[int, float]:
    """Return the median CPU milliseconds per trial, by the size of the study."""
    with tempfile.TemporaryDirectory() as folder:
        url = "memory:" if storage == "memory" else f"sqlite:///{folder}/study.db"
        study = optuna.create_study(storage=open_storage(url), sampler=SAMPLERS[sampler]())
        found = {}
        for size in sizes:
            run(study, size - len(study.get_trials(deepcopy=False)))
            found[size] = statistics.median(run(study, n_timed))
        return found


def main() -> None:
    """Measure, print a table and, if asked, write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--storage", nargs="+", default=["memory", "sqlite"])
    parser.add_argument("--timed", type=int, default=51, help="trials per figure")
    parser.add_argument("--json", help="file to write the figures to")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{platform.machine()}, Python {platform.python_version()}, Optuna {optuna.__version__}")
    print("CPU ms per trial: 16 integers, ask + suggest + tell, one process\n")
    print(f"{'storage':8} {'sampler':22}" + "".join(f"{size:>10,}" for size in chosen.sizes))
    figures = []
    for storage in chosen.storage:
        for sampler in SAMPLERS:
            found = measure(sampler, storage, chosen.sizes, chosen.timed)
            print(f"{storage:8} {sampler:22}" + "".join(f"{ms:10.2f}" for ms in found.values()))
            figures.append({"storage": storage, "sampler": sampler, "ms": found})
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
