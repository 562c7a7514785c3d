"""Many processes on one database server, one journal or one proxy are one search."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from commands import start
from optuna.trial import TrialState
from runs import place
from runs import studies
from services import with_storage

from optuna_wnn import report
from optuna_wnn.errors import InputError
from optuna_wnn.storages import open_storage
from optuna_wnn.store.places import child_of
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale


TRIALS = 12
CONFIG = f"""
name: {{name}}
seed: null
backend: reference
task: {{{{kind: text, path: text.txt, context: 1}}}}
space: {{{{neurons: [2, 9], bits: [2, 8]}}}}
search: {{{{trials: {TRIALS}, population_size: 6, n_neighbors: 6}}}}
phases:
  - {{{{method: ga, free: [neurons, bits]}}}}
  - {{{{method: ts, free: connections}}}}
"""
# Eight where workers meet on a server, fewer where the code that they run is the same.
WORKERS = {"postgres": 8, "mysql": 8, "redis": 8, "grpc": 8, "journal": 4, "sqlite": 4}
EXACT = ("postgresql", "mysql", "sqlite")  # whoever begins a trial there sees all others


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh storage of some kind."""
    yield from with_storage(request.param, tmp_path)


Start = Callable[[str], BaseProcess]


@pytest.fixture
def start_worker(here: Path) -> Start:
    """Starts a worker on a storage; the files ``*.log`` have the errors of each."""
    Path("run.yaml").write_text(CONFIG.format(name="shared"))
    numbers = itertools.count()

    def start_worker(url: str) -> BaseProcess:
        return start(["run", "run.yaml", "--storage", url], os.devnull, f"{next(numbers)}.log")

    return start_worker


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("url", "n_workers"), WORKERS.items(), indirect=["url"])
def test_many_processes_are_one_search(
    url: str, n_workers: int, start_worker: Start, here: Path
) -> None:
    workers = [start_worker(url) for _ in range(n_workers)]
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == n_workers * [0]
    check(url, n_workers, here)


@pytest.mark.skipif(sys.platform == "win32", reason="it needs SIGKILL")
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_one_is_killed_and_another_joins(url: str, start_worker: Start, here: Path) -> None:
    workers = [start_worker(url) for _ in range(3)]
    storage = open_storage(url)
    victim = None
    while victim is None:  # until one of them is in the middle of a trial
        running = [
            child_of(trial).worker
            for study in studies(storage, "shared")
            for trial in all_trials(study)
            if trial.state == TrialState.RUNNING
        ]
        victim = next((w for w in workers for name in running if f":{w.pid}:" in name), None)
        assert any(worker.is_alive() for worker in workers)
    victim.kill()
    victim.join()
    others = [worker for worker in workers if worker is not victim]
    others.append(start_worker(url))
    for worker in others:
        worker.join(300)
    assert [worker.exitcode for worker in others] == [0, 0, 0]
    check(url, len(workers) + 1, here, n_killed=1)


def check(url: str, n_workers: int, folder: Path, n_killed: int = 0) -> None:
    """Check that what some workers left is one search."""
    assert "".join(path.read_text() for path in folder.glob("[0-9]*.log")) == ""
    storage = open_storage(url)
    found = studies(storage, "shared")
    assert len(found) == 2
    for study in found:
        trials = all_trials(study)
        assert [t.number for t in trials] == list(range(len(trials)))
        assert all(t.state.is_finished() for t in trials)
        lasting = [t for t in trials if not is_stale(t.system_attrs)]
        assert {t.state for t in lasting} == {TrialState.COMPLETE}
        # Elsewhere a worker may give a trial up before it knows of the others.
        most_given_up = n_killed if url.startswith(EXACT) else n_killed + n_workers - 1
        assert len(trials) - len(lasting) <= most_given_up
        own = [t for t in lasting if report.SEEDED_FROM not in t.user_attrs]
        assert TRIALS <= len(own) < TRIALS + n_workers
        places = Counter(map(place, lasting))
        assert max(places.values()) == 1
        generations = Counter(generation for generation, _ in places)
        assert max(generations.values()) <= 6
        assert sorted(generations) == list(range(len(generations)))
        # No genome twice; one that was drawn beside a lost trial's may come again.
        handles = Counter(child_of(t).handle for t in lasting)
        assert sum(handles.values()) - len(handles) <= n_killed
        assert report.finished(study) is not None
    seeds = [t for t in all_trials(found[1]) if report.SEEDED_FROM in t.user_attrs]
    assert [place(t) for t in seeds] == [(0, i) for i in range(6)]
    assert len({report.read_seed(study) for study in found}) == 1


def test_of_a_service_that_is_not_there_one_line_tells() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        open_storage("postgresql+psycopg://postgres@127.0.0.1:1/test")
