"""Many processes on one database server, one journal or one proxy are one search."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from runs import place
from runs import studies

from optuna_wnn import report
from optuna_wnn.cli import main
from optuna_wnn.errors import InputError
from optuna_wnn.storages import masked
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
# What a machine with these services on their usual ports has; other addresses by environment.
URLS = {
    "postgres": ("TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test"),
    "mysql": ("TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test"),
    "redis": ("TEST_REDIS", "redis://127.0.0.1:6379/15"),
}
# Eight where workers meet on a server, fewer where the code that they run is the same.
WORKERS = {"postgres": 8, "mysql": 4, "redis": 4, "grpc": 3, "journal": 4, "sqlite": 4}
EXACT = ("postgresql", "mysql", "sqlite")  # whoever begins a trial there sees all others


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh storage of some kind."""
    kind = request.param
    if kind == "journal":
        yield f"journal:///{tmp_path}/runs.journal"
    elif kind == "sqlite":
        yield f"sqlite:///{tmp_path}/runs.db"
    elif kind == "redis":
        redis = pytest.importorskip("redis")
        address = os.environ.get(*URLS["redis"])
        client = redis.Redis.from_url(address)
        try:
            client.ping()
        except redis.exceptions.ConnectionError as error:
            pytest.skip(f"no Redis at {masked(address)}: {error}")
        if client.dbsize():
            pytest.skip(f"Redis at {masked(address)} holds something; give an empty database")
        yield address
        client.flushdb()
        client.close()
    elif kind == "grpc":
        pytest.importorskip("grpc")
        yield from with_proxy(tmp_path)
    else:
        yield from with_database(kind)


def with_database(kind: str) -> Iterator[str]:
    """Yield the URL of a new database of a server, and drop it."""
    address = os.environ.get(*URLS[kind])
    name = f"wnn_{uuid.uuid4().hex[:12]}"
    try:
        server = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        pytest.skip(f"no database at {masked(address)}: {str(error).splitlines()[0]}")
    url = sqlalchemy.engine.make_url(address).set(database=name)
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        force = " WITH (FORCE)" if kind == "postgres" else ""
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name}{force}"))
    server.dispose()


def with_proxy(folder: Path) -> Iterator[str]:
    """Yield the URL of Optuna's proxy in front of a new database."""
    for behind in with_database("postgres"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = (
            "from optuna_wnn import open_storage; from optuna.storages import "
            f"run_grpc_proxy_server as run; run(open_storage({behind!r}), "
            f"host='127.0.0.1', port={port})"
        )
        with open(folder / "proxy.log", "w") as log:
            server = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
        try:
            proxy = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
            proxy.wait_server_ready(timeout=60)
            proxy.close()
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BaseProcess]:
    """Starts the command in a process that forks from one that has imported everything."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat; the dog did not. " * 40)
    Path("run.yaml").write_text(CONFIG.format(name="shared"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna_wnn.cli", "optuna_wnn.evaluators.reference"])

    def start(url: str) -> BaseProcess:
        process = context.Process(target=_command, args=(url, str(tmp_path)))
        process.start()
        return process

    return start


def _command(url: str, folder: str) -> None:
    os.chdir(folder)
    with (
        open(f"{os.getpid()}.log", "w") as log,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(log),
    ):
        code = main(["run", "run.yaml", "--storage", url])
    sys.exit(code)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("url", "n_workers"), WORKERS.items(), indirect=["url"])
def test_many_processes_are_one_search(
    url: str, n_workers: int, start: Callable[[str], BaseProcess], tmp_path: Path
) -> None:
    workers = [start(url) for _ in range(n_workers)]
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == n_workers * [0]
    check(url, n_workers, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="it needs SIGKILL")
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_one_is_killed_and_another_joins(
    url: str, start: Callable[[str], BaseProcess], tmp_path: Path
) -> None:
    workers = [start(url) for _ in range(3)]
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
    others.append(start(url))
    for worker in others:
        worker.join(300)
    assert [worker.exitcode for worker in others] == [0, 0, 0]
    check(url, len(workers) + 1, tmp_path, n_killed=1)


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
        # Elsewhere the second of two who begin at the same moment gives its trial up.
        most_given_up = n_killed if url.startswith(EXACT) else len(lasting)
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
