"""A long run: memory, time per trial and size of the database, at intervals.

Evaluations cost nothing here, so that what is measured is the search and its storage. For example,
``python benchmarks/soak.py --trials 50000`` on SQLite, or with ``--storage URL``.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy
from numpy.typing import NDArray

from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.genome import Genome
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import Progress
from optuna_wnn.phases import quieten_optuna
from optuna_wnn.storages import open_storage
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task
from optuna_wnn.tasks.base import pack_bits


N_INPUTS, N_CLUSTERS = 64, 8


class Free(Evaluator):
    """Makes losses of what a genome computes, by hashing."""

    backend = "free"

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        """Train nothing."""
        raise AssertionError("nothing is trained here")

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        """Return losses between 0 and 1 of every cluster."""
        losses: NDArray[np.float64] = genome.cluster_hashes / 2.0**64
        digest = hashlib.blake2b(genome.digest.encode(), digest_size=6)
        return Evaluation(
            cross_entropy=float(losses.sum()),
            accuracy=int(digest.hexdigest(), 16) / 2**48,
            neuron_order=np.arange(genome.n_neurons),
            cluster_losses=losses,
            n_examples=8,
        )


def task() -> Task:
    """Return a task of a few examples, which nobody reads."""
    rng = np.random.default_rng(0)
    train, validation, test = (
        Examples(pack_bits(rng.random((8, N_INPUTS)) < 0.5), rng.integers(0, N_CLUSTERS, 8))
        for _ in range(3)
    )
    groups = N_INPUTS, 1
    sizes = N_INPUTS, N_CLUSTERS
    return Task("soak", "classes", *sizes, train, validation, test, input_groups=groups)


class Gauge:
    """Prints a line at intervals.

    Args:
        storage: URL of the storage.
        every: Trials between two lines.
    """

    def __init__(self, storage: str, every: int) -> None:
        self._every = every
        self._url = sqlalchemy.engine.make_url(storage)
        self._process = psutil.Process()
        self._n_trials = 0
        self._last = 0, *self._seconds(), self._bytes()
        print(
            f"{'trials':>8} {'RSS MiB':>8} {'CPU ms':>8} {'wall ms':>8} {'DB MiB':>8} {'bytes':>8}"
        )

    def _seconds(self) -> tuple[float, float]:
        times = self._process.cpu_times()
        return times.user + times.system, time.perf_counter()

    def _bytes(self) -> int:
        if self._url.get_backend_name() == "sqlite":
            path = Path(self._url.database or "")
            files = (path.with_name(path.name + end) for end in ("", "-wal"))
            return sum(file.stat().st_size for file in files if file.exists())
        size = "SELECT pg_database_size(current_database())"
        engine = sqlalchemy.create_engine(self._url)
        with engine.connect() as connection:
            found = int(connection.execute(sqlalchemy.text(size)).scalar_one())
        engine.dispose()
        return found

    def show(self, progress: Progress) -> None:
        """Count a trial."""
        if progress.event not in ("trial", "generation"):
            return
        self._n_trials += 1
        if self._n_trials % self._every:
            return
        now = self._n_trials, *self._seconds(), self._bytes()
        trials, cpu, wall, size = (new - old for new, old in zip(now, self._last, strict=True))
        print(
            f"{self._n_trials:8} {self._process.memory_info().rss / 2**20:8.1f} "
            f"{1000 * cpu / trials:8.2f} {1000 * wall / trials:8.2f} {now[3] / 2**20:8.1f} "
            f"{size / trials:8.0f}",
            flush=True,
        )
        self._last = now


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50_000, help="in all phases together")
    parser.add_argument("--phases", type=int, choices=(1, 6), default=1)
    parser.add_argument("--every", type=int, default=2_500)
    parser.add_argument("--storage", help="a new SQLite file by default")
    given = parser.parse_args()
    quieten_optuna()
    with tempfile.TemporaryDirectory() as folder:
        url = given.storage or f"sqlite:///{folder}/soak.db"
        one = {"phases": [{"method": "ga", "free": ["neurons", "bits", "connections"]}]}
        config = parse_config(
            {
                "name": f"soak-{time.time():.0f}",
                "task": {"kind": "text", "path": "unread"},
                "space": {"neurons": [2, 16], "bits": [2, 12]},
                "search": {"trials": given.trials // given.phases, "patience": given.trials},
                **(one if given.phases == 1 else {}),
            }
        )
        search = PhasedSearch(config, open_storage(url), task=task(), evaluator=Free(task()))
        search.watch(Gauge(url, given.every).show)
        search.run()


if __name__ == "__main__":
    main()
