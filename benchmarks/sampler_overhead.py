"""What a sampler costs per trial: CPU time of ask + suggest + tell as a study grows.

The study searches 16 integers. In memory it is grown through the sampler itself. A database of
each size is then filled with the first trials of that study in bulk, since growing one through
NSGA-II would take hours. What is reported is the median CPU time of one trial over some trials at
each size. Samplers are measured side by side, in a process each.

    python benchmarks/sampler_overhead.py
    python benchmarks/sampler_overhead.py --sizes 100 5000 --storage memory --json x.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.distributions import IntDistribution
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

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


def fill(study: optuna.Study, storage: RDBStorage, name: str, size: int) -> None:
    """Copy the first trials of a study into a new study of an empty database, in bulk."""
    copy = optuna.create_study(storage=storage, study_name=name)
    trials = study.get_trials(deepcopy=False)[:size]
    first = trials[0]._trial_id - 1  # ids of the database count from 1
    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        if ":parent:" in key:  # NSGA-II names parents by id
            value = [trial_id - first for trial_id in value]
        storage.set_study_system_attr(copy._study_id, key, value)
    tables = sqlalchemy.MetaData()
    tables.reflect(storage.engine)
    rows: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("trials", "trial_params", "trial_values", "trial_system_attributes")
    }
    for number, trial in enumerate(trials):
        assert trial.state == TrialState.COMPLETE
        of = {"trial_id": number + 1}
        rows["trials"].append(
            {
                **of,
                "number": number,
                "study_id": copy._study_id,
                "state": "COMPLETE",
                "datetime_start": trial.datetime_start,
                "datetime_complete": trial.datetime_complete,
            }
        )
        rows["trial_values"].append(
            {**of, "objective": 0, "value": trial.value, "value_type": "FINITE"}
        )
        rows["trial_params"] += [
            {
                **of,
                "param_name": name,
                "param_value": float(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ]
        rows["trial_system_attributes"] += [
            {**of, "key": key, "value_json": json.dumps(value)}
            for key, value in trial.system_attrs.items()
        ]
    with storage.engine.begin() as connection:
        for table, content in rows.items():
            if content:
                connection.execute(tables.tables[table].insert(), content)


def measure(job: tuple[str, list[str], list[int], int]) -> dict[str, dict[int, float]]:
    """Return the median CPU milliseconds per trial, by storage and size of the study."""
    sampler, storages, sizes, n_timed = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    grown = optuna.create_study(storage=open_storage("memory:"), sampler=SAMPLERS[sampler]())
    found: dict[str, dict[int, float]] = {storage: {} for storage in storages}
    for size in sizes:
        run(grown, size - len(grown.get_trials(deepcopy=False)))
        if "memory" in storages:
            found["memory"][size] = statistics.median(run(grown, n_timed))
        if "sqlite" in storages:
            with tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:///{folder}/study.db"
                database = open_storage(url)
                fill(grown, database._backend, "study", size)  # type: ignore[attr-defined]
                study = optuna.load_study(
                    study_name="study", storage=open_storage(url), sampler=SAMPLERS[sampler]()
                )
                run(study, 3)  # the first ones read all there is
                found["sqlite"][size] = statistics.median(run(study, n_timed))
    return found


def main() -> None:
    """Measure, print a table and, if asked, write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000, 20000])
    parser.add_argument("--storage", nargs="+", default=["memory", "sqlite"])
    parser.add_argument("--timed", type=int, default=51, help="trials per figure")
    parser.add_argument("--json", help="file to write the figures to")
    chosen = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, Optuna {optuna.__version__}")
    print("CPU ms per trial: 16 integers, ask + suggest + tell, a process per sampler\n")
    print(f"{'storage':8} {'sampler':22}" + "".join(f"{size:>10,}" for size in chosen.sizes))
    jobs = [(sampler, chosen.storage, chosen.sizes, chosen.timed) for sampler in SAMPLERS]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        found = pool.map(measure, jobs, chunksize=1)
    figures = []
    for storage in chosen.storage:
        for sampler, by_storage in zip(SAMPLERS, found, strict=True):
            ms = by_storage[storage]
            print(f"{storage:8} {sampler:22}" + "".join(f"{x:10.2f}" for x in ms.values()))
            figures.append({"storage": storage, "sampler": sampler, "ms": ms})
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
