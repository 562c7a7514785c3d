"""How long it takes to vary and to store genomes, up to the size of a token head.

python benchmarks/variation.py
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import optuna

from optuna_wnn import Bounds
from optuna_wnn import Genome
from optuna_wnn import open_storage
from optuna_wnn.genome import DIMENSIONS
from optuna_wnn.moves import apply_move
from optuna_wnn.moves import random_move
from optuna_wnn.store.attributes import system_attributes
from optuna_wnn.store.genomes import write_genome
from optuna_wnn.store.reader import GenomeReader
from optuna_wnn.store.reader import genome_reader
from optuna_wnn.variation import crossover
from optuna_wnn.variation import mutate
from optuna_wnn.variation import random_genome


SIZES = {
    "10 clusters x 40 x 8": (Bounds(10, 784, (10, 80), (4, 12)), 40, 8),
    "50,257 clusters x 5 x 8": (Bounds(50_257, 64, (1, 9), (4, 12)), 5, 8),
}


def milliseconds(task: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time that a task takes."""
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        spent.append(1000 * (time.perf_counter() - started))
    return statistics.median(spent)


def tasks(bounds: Bounds, neurons: int, bits: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    rng = np.random.default_rng(0)
    first = random_genome(bounds, rng, neurons=neurons, bits=bits)
    second = random_genome(bounds, rng, neurons=neurons, bits=bits)
    child = mutate(crossover(first, second, rng.random(bounds.n_clusters) < 0.5), bounds,
                   DIMENSIONS, 0.1, rng)  # fmt: skip
    study = optuna.create_study(storage=open_storage("memory:"))
    reader = genome_reader(study)
    trials: list[optuna.Trial] = []
    for genome in (first, second, child):
        trials.append(study.ask())
        write_genome(study, trials[-1], genome, (0, 1) if len(trials) == 3 else ())
    attributes = system_attributes(study.trials[2])
    size = sum(len(text) for key, text in attributes.items() if key.startswith("wnn:genome"))

    def fresh(genome: Genome) -> Genome:
        return Genome(genome.neurons, genome.bits, genome.connections)

    def move() -> Genome | None:
        found = random_move(child, bounds, DIMENSIONS, rng)
        return None if found is None else apply_move(child, found, bounds)

    return {
        "random genome": lambda: random_genome(bounds, rng, neurons=neurons, bits=bits),
        "crossover": lambda: crossover(first, second, rng.random(bounds.n_clusters) < 0.5),
        "mutate neurons, rate 0.1": lambda: mutate(first, bounds, ["neurons"], 0.1, rng),
        "mutate bits, rate 0.1": lambda: mutate(first, bounds, ["bits"], 0.1, rng),
        "mutate connections, rate 0.1": lambda: mutate(first, bounds, ["connections"], 0.1, rng),
        "one move": move,
        "check and digest": lambda: fresh(child).digest,
        f"store a child ({size / 1000:.0f} kB)": lambda: write_genome(
            study, trials[2], child, (0, 1)
        ),
        "read a child": lambda: GenomeReader(reader._attributes_of).read(2),
    }


def main() -> None:
    """Print a table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    for name, size in SIZES.items():
        print(f"\n{name}, ms")
        for task, call in tasks(*size).items():
            print(f"  {task:32}{milliseconds(call):10.2f}")


if __name__ == "__main__":
    main()
