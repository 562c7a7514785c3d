"""How many trials per second some workers make of one run, and what each trial asks of a server.

Evaluations take a fixed time (they sleep), so what is measured is the search: efficiency is the
share of the workers' time that is evaluation, from the first trial's start to the last one's
end. Statements and transactions are counted in the workers; for the proxy, calls.

    python benchmarks/distributed.py --url postgresql+psycopg://postgres@127.0.0.1/test
    python benchmarks/distributed.py --url postgresql+psycopg://postgres@127.0.0.1/test --proxy
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import multiprocessing
import os
import platform
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_wnn import Genome
from optuna_wnn import open_storage
from optuna_wnn import report
from optuna_wnn.config import parse_config
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators import Evaluator
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.evaluators.readings import Reading
from optuna_wnn.evaluators.votes import Cluster
from optuna_wnn.evaluators.votes import ClusterVotes
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.phases import quieten_optuna
from optuna_wnn.store.trials import all_trials
from optuna_wnn.tasks import Examples
from optuna_wnn.tasks import Task


def fixed_task() -> Task:
    """Return a task of 64 input bits and 8 classes."""
    rng = np.random.default_rng(0)
    train, validation, test = (
        Examples(rng.integers(0, 2**63, (16, 1), np.uint64), rng.integers(0, 8, 16))
        for _ in range(3)
    )
    return Task("fixed", "classes", 64, 8, train, validation, test, input_groups=(64, 1))


class Sleeper(Evaluator):
    """Takes a fixed time for a loss that no two genomes share."""

    backend = "sleeper"

    def __init__(self, task: Task, seconds: float) -> None:
        super().__init__(task)
        self.seconds = seconds

    def cluster_votes(self, clusters: Sequence[Cluster], reading: Reading) -> list[ClusterVotes]:
        raise AssertionError("nothing is trained here")

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        time.sleep(self.seconds if part == "fitness" else 0.0)
        digest = hashlib.blake2b(genome.digest.encode(), digest_size=6).hexdigest()
        loss = int(digest, 16) / 2**48
        losses = np.full(genome.n_clusters, loss / genome.n_clusters)
        order = np.arange(genome.n_neurons)
        return Evaluation(loss, 1 - loss, order, losses, n_examples=16)


def count(storage: BaseStorage) -> Counter[str]:
    """Return what grows with what a storage asks of its server."""
    counts: Counter[str] = Counter()
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        sqlalchemy.event.listen(
            engine, "before_cursor_execute", lambda *_: counts.update(["statements"])
        )
        sqlalchemy.event.listen(engine, "commit", lambda *_: counts.update(["transactions"]))
        return counts

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(*args: Any, **options: Any) -> Any:
            counts["calls"] += 1
            return method(*args, **options)

        return wrapped

    for name in dir(BaseStorage):
        if not name.startswith("_"):
            setattr(storage, name, counted(getattr(storage, name)))
    return counts


def work(job: tuple[str, str, float, int], barrier: Any, results: Any) -> None:
    """Be one of the workers."""
    url, name, seconds, n_trials = job
    quieten_optuna()
    task = fixed_task()
    search = {"trials": n_trials, "population_size": 20, "n_neighbors": 20}
    config = parse_config(
        {
            "name": name,
            "task": {"kind": "text", "path": "unread"},
            "space": {"neurons": 16, "bits": 12},
            "search": search,
            "phases": [{"method": "ga", "free": "connections"}],
        }
    )
    storage = open_storage(url)
    counts = count(storage)
    barrier.wait()
    before = time.process_time()
    PhasedSearch(config, storage, task=task, evaluator=Sleeper(task, seconds)).run()
    results.put((counts, time.process_time() - before))


def measure(url: str, seconds: float, n_workers: int, n_trials: int) -> dict[str, float]:
    """Return what a run of some workers comes to, per trial."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna_wnn.cli"])
    barrier, results = context.Barrier(n_workers), context.Queue()
    job = url, f"scaling-{uuid.uuid4().hex[:8]}", seconds, n_trials
    workers = [
        context.Process(target=work, args=(job, barrier, results)) for _ in range(n_workers)
    ]
    for worker in workers:
        worker.start()
    total: Counter[str] = Counter()
    spent = 0.0
    for _ in workers:
        counts, cpu = results.get()
        total += counts
        spent += cpu
    for worker in workers:
        worker.join()
    storage = open_storage(url)
    (name,) = report.study_names(storage, job[1])
    study = optuna.load_study(study_name=name, storage=storage)
    trials = [t for t in all_trials(study) if t.state == TrialState.COMPLETE]
    starts = min(t.datetime_start for t in trials if t.datetime_start is not None)
    ends = max(t.datetime_complete for t in trials if t.datetime_complete is not None)
    wall = (ends - starts).total_seconds()
    found = {
        "trials": len(trials),
        "per second": len(trials) / wall,
        "efficiency": len(trials) * seconds / n_workers / wall,
        "cpu ms": 1000 * spent / len(trials),
    }
    return found | {name: n / len(trials) for name, n in total.items()}


def size_of(url: str) -> int:
    """Return how many bytes a PostgreSQL database has."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT pg_database_size(current_database())"))
        return int(found.scalar_one())


def start_proxy(url: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start Optuna's proxy in front of a database, and return its URL too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "from optuna_wnn import open_storage; from optuna.storages import run_grpc_proxy_server "
        f"as run; run(open_storage({url!r}), host='127.0.0.1', port={port})"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-c", code], **quiet)  # type: ignore[call-overload]
    client = open_storage(f"grpc://127.0.0.1:{port}")
    client.wait_server_ready(timeout=60)  # type: ignore[attr-defined]
    return server, f"grpc://127.0.0.1:{port}"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="a database of a PostgreSQL server")
    parser.add_argument("--proxy", action="store_true", help="put Optuna's gRPC proxy before it")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--ms", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--seconds", type=float, default=5.0, help="that a run should last")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    server, url = start_proxy(chosen.url) if chosen.proxy else (None, chosen.url)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, "
        f"Python {platform.python_version()}, Optuna {optuna.__version__}"
    )
    before, n_all = size_of(chosen.url), 0.0
    try:
        for ms in chosen.ms:
            for n_workers in chosen.workers:
                n_trials = max(4 * n_workers, int(n_workers * chosen.seconds * 1000 / ms))
                found = measure(url, ms / 1000, n_workers, n_trials)
                n_all += found["trials"]
                cells = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
                print(f"{ms:5} ms  {n_workers} workers  {cells}", flush=True)
    finally:
        if server is not None:
            server.kill()
    print(f"{(size_of(chosen.url) - before) / n_all:.0f} bytes of the database per trial")


if __name__ == "__main__":
    main()
