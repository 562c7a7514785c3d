"""Which sampler finds the better wiring: curves of the best so far, scored on held-out data.

Every method gets the same objective, the same number of evaluations and the same seeds; what is
compared is the loss on the test part, which no method sees, of the genome that each holds for its
best. ``python benchmarks/search_quality.py --help`` tells the options; the committed figures in
``docs/explanation/search-quality.md`` name the command that made them. Needs scikit-learn, and
matplotlib for the pictures.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from optuna_wnn import GenomeSpace
from optuna_wnn import MemorySettings
from optuna_wnn import WNNGeneticSampler
from optuna_wnn import WNNTabuSearchSampler
from optuna_wnn import load_task
from optuna_wnn import set_genome
from optuna_wnn.config import RunConfig
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators import create_evaluator
from optuna_wnn.memory import FitnessOn
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import pack_bits


_KEYS = ("task", "fitness_on", "seed", "method")
Curve = list[tuple[int, float, float, float]]  # evaluations, CPU seconds, fitness CE, test CE

# Where the loss is a sum over clusters (bits), the genetic algorithm keeps the best of each and
# judges as many moves at once as there are clusters, so its phases get the budget; where one
# loss judges all (classes), small steps of a tabu search gain most.
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "space": {"neurons": [16, 64], "bits": [4, 10], "start_neurons": 48, "start_bits": 8},
        "search": {"population_size": 6, "n_neighbors": 50, "improvement": "first"},
        "shares": (0.03, 0.1, 0.03, 0.1, 0.03, 0.71),
    },
    "python-docs": {
        "space": {"neurons": [4, 16], "bits": [8, 16], "start_neurons": 8, "start_bits": 14},
        "search": {
            "population_size": 6,
            "crossover_rate": 1.0,
            "mutation_rate": 1.0,
            "n_neighbors": 50,
            "improvement": "first",
        },
        "shares": (0.15, 0.02, 0.15, 0.02, 0.64, 0.02),
    },
}
_LEFT_OUT = 46_600  # examples of python-docs where each is left out in turn: as many as validate


def digits(seed: int) -> Task:
    """Return scikit-learn's 8 × 8 digits as 8 thermometer bits per pixel, split anew by seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    levels = np.arange(8) * 2 + 1
    bits = (data.data[:, :, None] >= levels).reshape(len(data.data), -1)
    order = np.random.default_rng(seed).permutation(len(bits))
    cuts = np.split(order, [1000, 1347])
    parts = [Examples(pack_bits(bits[c]), data.target[c].astype(np.int64)) for c in cuts]
    return Task("digits", "classes", 512, 10, parts[0], parts[1], parts[2], (64, 8))


class Recorder:
    """Follows a search: keeps the best so far and its loss on the test part."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.curve: Curve = []
        self._evaluations = 0
        self._best = np.inf
        self._started = time.process_time()
        self._scoring = 0.0

    def see(self, cross_entropy: float, genome: Any, evaluations: int = 1) -> None:
        """Take in one trial; scoring on the test part is not counted as time."""
        self._evaluations += evaluations
        if cross_entropy >= self._best:
            return
        self._best = cross_entropy
        started = time.process_time()
        test = self.evaluator.evaluate(genome, "test").cross_entropy
        self._scoring += time.process_time() - started
        seconds = time.process_time() - self._started - self._scoring
        self.curve.append((self._evaluations, seconds, cross_entropy, test))

    @property
    def total(self) -> tuple[int, float]:
        """Evaluations and CPU seconds until now."""
        return self._evaluations, time.process_time() - self._started - self._scoring


def quicken_tpe() -> None:
    """Give Optuna's TPE SciPy's ``log_ndtr`` in place of its own port of it.

    The port is called number by number: five sixths of the time of a search here. The values are
    the same but for the last bit, so the comparison at equal CPU time only gets harder for us.
    """
    from optuna.samplers._tpe import _truncnorm
    from scipy.special import log_ndtr

    _truncnorm._log_ndtr = log_ndtr


def one_study(
    sampler: optuna.samplers.BaseSampler, recorder: Recorder, space: GenomeSpace, budget: int
) -> None:
    """Run one sampler on the genome objective."""

    def objective(trial: optuna.Trial) -> float:
        genome = space.suggest(trial)
        result = recorder.evaluator.evaluate(genome)
        set_genome(trial, genome, result.cluster_losses)
        recorder.see(result.cross_entropy, genome)
        return result.cross_entropy

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=budget)


def pipeline(recorder: Recorder, config: RunConfig, task: Task) -> None:
    """Run the six phases on the same budget; moves inside a trial count as evaluations."""
    search = PhasedSearch(
        config, optuna.storages.InMemoryStorage(), task=task, evaluator=recorder.evaluator
    )
    seen: dict[str, int] = {}

    def watch(progress: Progress) -> None:
        study = optuna.load_study(study_name=progress.study, storage=search.storage)
        trials = study.get_trials(deepcopy=False)
        for trial in trials[seen.get(progress.study, 0) :]:
            if not trial.state.is_finished():
                break
            seen[progress.study] = trial.number + 1
            if trial.values is not None and "seeded from" not in trial.user_attrs:
                genome = genome_reader(study).read(trial.number)
                steps = config.phases[progress.phase].refine_steps
                recorder.see(trial.values[0], genome, 1 + steps)

    search.watch(watch)
    search.run()


def methods(
    task: Task, memory: MemorySettings, budget: int, seed: int
) -> dict[str, Callable[[Recorder], None]]:
    """Return all methods by name."""
    settings = SETTINGS[task.name]
    neurons, bits = (tuple(settings["space"][name]) for name in ("neurons", "bits"))
    space = GenomeSpace.for_task(task, neurons=neurons, bits=bits)

    def study(
        make: Callable[..., optuna.samplers.BaseSampler], space: GenomeSpace = space, **how: Any
    ) -> Callable[[Recorder], None]:
        return lambda recorder: one_study(make(seed=seed, **how), recorder, space, budget)

    def climber(neurons: int, bits: int) -> Callable[[Recorder], None]:
        wiring = GenomeSpace.for_task(task, neurons=neurons, bits=bits, free=["connections"])
        return study(WNNTabuSearchSampler, wiring, n_neighbors=1)

    def phases(refine: int) -> Callable[[Recorder], None]:
        document: dict[str, Any] = {
            "name": "pipeline",
            "seed": seed,
            "task": {"kind": "python-docs"},
            "space": settings["space"],
            "search": settings["search"],
            "phases": [
                {"method": method, "free": free, "trials": max(4, round(share * budget))}
                for (free, method), share in zip(
                    product(("neurons", "bits", "connections"), ("ga", "ts")),
                    settings["shares"],
                    strict=True,
                )
            ],
        }
        for phase in document["phases"]:
            if phase["free"] == "connections" and refine:
                phase["refine_steps"] = refine
                phase["trials"] = max(4, phase["trials"] // (1 + refine))
        config = parse_config(document).model_copy(update={"memory": memory})
        return lambda recorder: pipeline(recorder, config, task)

    start = settings["space"]["start_neurons"], settings["space"]["start_bits"]
    return {
        "random": study(optuna.samplers.RandomSampler),
        "TPE": study(optuna.samplers.TPESampler),
        "NSGA-II": study(optuna.samplers.NSGAIISampler),
        "hill climber": climber(*start),
        "hill climber, largest": climber(neurons[1], bits[1]),
        "WNN GA, blind": study(WNNGeneticSampler, crossover="blind"),
        "WNN GA": study(WNNGeneticSampler),
        "WNN tabu": study(WNNTabuSearchSampler),
        "six phases": phases(0),
        "six phases, refined": phases(9),
    }


def prepared(name: str, fitness_on: FitnessOn, seed: int) -> tuple[Task, MemorySettings]:
    """Return a task, and how its neurons remember."""
    if name == "digits":
        return digits(seed), MemorySettings(
            vote="log_odds", fitness_on=fitness_on, temperature="fit"
        )
    task = load_task("python-docs")
    if fitness_on == "leave_one_out":
        few = Examples(task.train.inputs[:_LEFT_OUT], task.train.targets[:_LEFT_OUT])
        task = replace(task, train=few)
    return task, MemorySettings(vote="confidence", fitness_on=fitness_on)


def run(arguments: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Run everything that was asked for and is not there; one record for each search."""
    done = {tuple(r[key] for key in _KEYS) for r in records}
    wanted = product(range(arguments.seeds), arguments.tasks, arguments.fitness_on)
    for seed, name, fitness_on in wanted:
        task, memory = prepared(name, fitness_on, seed)
        for method, search in methods(task, memory, arguments.budget, seed).items():
            if (arguments.methods and method not in arguments.methods) or (
                (name, fitness_on, seed, method) in done
            ):
                continue
            recorder = Recorder(create_evaluator(task, memory))
            search(recorder)
            evaluations, seconds = recorder.total
            _, _, fitness, test = recorder.curve[-1]
            print(
                f"{name:12} {fitness_on:15} seed {seed}  {method:22} "
                f"{evaluations:5} evaluations {seconds:7.1f} s  "
                f"fitness {fitness:.4f}  test {test:.4f}",
                flush=True,
            )
            values = (name, fitness_on, seed, method, evaluations, round(seconds, 2))
            record = dict(zip((*_KEYS, "evaluations", "seconds"), values, strict=True))
            records.append({**record, "curve": thinned(recorder.curve)})
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(records))


def thinned(curve: Curve) -> Curve:
    """Return at most some hundred points of a curve, its first and its last among them."""
    picked = np.unique(np.geomspace(1, len(curve), 100).astype(int)) - 1
    return [
        (n, round(s, 3), round(f, 5), round(t, 5)) for n, s, f, t in (curve[i] for i in picked)
    ]


def value_at(curve: Curve, column: int, limit: float) -> float:
    """Return the test loss of the best so far when a column reached a limit."""
    reached = [point[3] for point in curve if point[column] <= limit]
    return reached[-1] if reached else float("inf")


def table(records: list[dict[str, Any]], column: int) -> str:
    """Return quartiles of the test loss as Markdown.

    Args:
        records: What :func:`run` returned.
        column: 0 compares at equal evaluations; 1 at equal CPU time, what the quickest method of
            the same seed took in all.
    """
    lines = [
        "| task | fitness | method | seeds | test CE: median | quartiles |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    total = ("evaluations", "seconds")[column]
    groups = {(r["task"], r["fitness_on"]) for r in records}
    for task, fitness_on in sorted(groups):
        group = [r for r in records if (r["task"], r["fitness_on"]) == (task, fitness_on)]
        limits: dict[int, float] = {}
        for r in group:
            limits[r["seed"]] = min(r[total], limits.get(r["seed"], np.inf))
        for method in dict.fromkeys(r["method"] for r in group):
            values = [
                value_at(r["curve"], column, limits[r["seed"]])
                for r in group
                if r["method"] == method
            ]
            low, middle, high = np.percentile(values, [25, 50, 75])
            lines.append(
                f"| {task} | `{fitness_on}` | {method} | {len(values)} | {middle:.4f} | "
                f"{low:.4f} – {high:.4f} |"
            )
    return "\n".join(lines)


def picture(records: list[dict[str, Any]], folder: Path) -> None:
    """Draw the curves, median and quartiles over the seeds, one file per task and fitness."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for task, fitness_on in sorted({(r["task"], r["fitness_on"]) for r in records}):
        group = [r for r in records if (r["task"], r["fitness_on"]) == (task, fitness_on)]
        figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
        for axis, column, label in ((axes[0], 0, "evaluations"), (axes[1], 1, "CPU seconds")):
            for method in dict.fromkeys(r["method"] for r in group):
                curves = [r["curve"] for r in group if r["method"] == method]
                last = max(r["evaluations" if column == 0 else "seconds"] for r in group)
                grid = np.geomspace(last / 200, last, 80)
                values = np.array([[value_at(c, column, x) for x in grid] for c in curves])
                low, middle, high = np.nanpercentile(values, [25, 50, 75], axis=0)
                (line,) = axis.plot(grid, middle, label=method)
                axis.fill_between(grid, low, high, alpha=0.15, color=line.get_color())
            axis.set(xlabel=label, xscale="log")
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("test cross-entropy of the best so far")
        axes[1].legend(fontsize=8)
        figure.suptitle(f"{task}, fitness on {fitness_on}")
        figure.tight_layout()
        figure.savefig(folder / f"search-quality-{task}-{fitness_on}.png", dpi=110)
        plt.close(figure)


def main() -> int:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    kinds = ["validation", "leave_one_out"]
    parser.add_argument("--fitness-on", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--budget", type=int, default=2000, help="evaluations of each method")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="the curves: what is there is not run again")
    parser.add_argument("--pictures", type=Path, help="a folder for PNGs")
    parser.add_argument("--only-report", action="store_true", help="report what --json holds")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    quicken_tpe()
    records: list[dict[str, Any]] = []
    if arguments.json is not None and arguments.json.exists():
        records = json.loads(arguments.json.read_text())
    if not arguments.only_report:
        run(arguments, records)
    print(f"\n{platform.machine()}, Python {platform.python_version()}\n\nAt equal evaluations:\n")
    print(table(records, 0))
    print("\nAt equal CPU time:\n")
    print(table(records, 1))
    if arguments.pictures is not None:
        picture(records, arguments.pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
