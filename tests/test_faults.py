"""What fails around a run: storages, disks, networks, evaluators, memory, the clock."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from runs import DigestEvaluator
from runs import Outcome
from runs import outcome
from runs import small_search
from runs import small_task
from runs import studies
from test_resume import WRITES
from test_services import URLS
from test_services import with_database

from optuna_wnn import chain
from optuna_wnn import outages
from optuna_wnn import workers
from optuna_wnn.cli import main
from optuna_wnn.errors import InputError
from optuna_wnn.errors import StorageError
from optuna_wnn.evaluators import Evaluation
from optuna_wnn.evaluators.base import EvaluationPart
from optuna_wnn.genome import Genome
from optuna_wnn.storages import open_storage


SHORT: dict[str, Any] = {"search": {"trials": 5, "population_size": 3, "n_neighbors": 3}}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(outages, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(outages, "_LONGEST_WAIT", 0.05)
    monkeypatch.setattr(chain, "_MAKER_START", 0.05)


@pytest.fixture(scope="module")
def expected() -> Outcome:
    """What the short run comes to if nothing disturbs it."""
    storage = InMemoryStorage()
    small_search(storage, **SHORT).run()
    return outcome(storage)


def lost_connection() -> Exception:
    """Return what SQLAlchemy raises where a server hangs up."""
    return sqlalchemy.exc.OperationalError("…", None, Exception("server closed the connection"))


# -- storages that fail now and then --------------------------------------------------------------


def failing(storage: BaseStorage, period: int, *, after: bool) -> list[int]:
    """Have every so-manieth write of a storage fail, before it is done or after; count them."""
    counts = [0, 0]

    def unreliable(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            counts[0] += 1
            fails = counts[0] % period == 0
            counts[1] += fails
            if fails and not after:
                raise lost_connection()
            result = write(*args, **options)
            if fails:
                raise lost_connection()
            return result

        return wrapped

    for name in WRITES:
        setattr(storage, name, unreliable(getattr(storage, name)))
    return counts


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done but not told"])
@pytest.mark.parametrize("period", [31, 41])
def test_a_run_survives_writes_that_fail_and_evaluates_nothing_twice(
    impatient: None, expected: Outcome, period: int, after: bool
) -> None:
    whole = DigestEvaluator()
    small_search(InMemoryStorage(), whole, **SHORT).run()
    storage, evaluator = InMemoryStorage(), DigestEvaluator()
    counts = failing(storage, period, after=after)
    small_search(storage, evaluator, **SHORT).run()
    assert counts[1] > 5
    assert outcome(storage) == expected
    # Only where a result was stored, and the trial then closed, may it be asked for again.
    assert evaluator.seen == whole.seen


@pytest.mark.parametrize("seed", [1])
def test_a_run_survives_statements_that_fail(
    impatient: None, expected: Outcome, seed: int, tmp_path: Path
) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/runs.db")
    rng = random.Random(seed)
    counts = [0, 0]

    def fail(*_: Any) -> None:
        counts[0] += 1
        if counts[0] % 100 == 0 and counts[1] < 9:
            counts[0] += rng.randrange(60)
            counts[1] += 1
            raise lost_connection()

    engine = storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", fail)
    small_search(storage, **SHORT).run()
    sqlalchemy.event.remove(engine, "before_cursor_execute", fail)
    assert counts[1] > 5
    assert outcome(storage) == expected


def test_waits_grow_and_end_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def work() -> None:
        raise lost_connection()

    with pytest.raises(StorageError, match="run the same command again: nothing is lost"):
        outages.Outage().keep_trying(work)
    assert waits[:4] == [0.5, 1, 2, 4]
    assert max(waits) == 30
    assert outages.PATIENCE < sum(waits) < outages.PATIENCE + 31
    assert len(caplog.messages) == len(waits)
    assert "server closed the connection" in caplog.messages[0]


def test_a_storage_that_recovers_is_given_all_the_patience_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    outage = outages.Outage()

    def work() -> None:
        if len(waits) == 3:
            outage.over()
        if len(waits) < 5:
            raise lost_connection()

    outage.keep_trying(work)
    assert waits == [0.5, 1, 2, 0.5, 1]


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError(), ConnectionResetError(), KeyError("x"), InputError("a: b")],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_waited_for(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        outages.Outage().keep_trying(work)


def test_an_evaluator_that_has_a_database_of_its_own_is_not_waited_for() -> None:
    class Remote(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            raise lost_connection()

    storage = InMemoryStorage()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        small_search(storage, Remote(), **SHORT).run()
    (trial,) = studies(storage)[0].trials
    assert trial.state == TrialState.FAIL


# -- disks ---------------------------------------------------------------------------------------


def test_a_full_database_stops_the_run_with_one_line_and_it_goes_on_later(
    tmp_path: Path, expected: Outcome
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"

    def limit(connection: Any, _: Any) -> None:
        (now,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {now + more}")

    for more in (1, 2, 3, 1000):
        storage = open_storage(url)
        engine = storage._backend.engine  # type: ignore[attr-defined]
        engine.dispose()
        sqlalchemy.event.listen(engine, "connect", limit)
        if more == 1000:
            small_search(storage, **SHORT).run()
        else:
            with pytest.raises(StorageError, match=r"no space is left on its disk; .* is full"):
                small_search(storage, **SHORT).run()
        engine.dispose()
    assert outcome(open_storage(url)) == expected


TEXT = "the cat sat on the mat; the dog did not. " * 40
CONFIG = """
name: {name}
storage: {storage}
backend: reference
task: {{kind: text, path: text.txt, context: 1}}
space: {{neurons: [2, 3], bits: [2, 4]}}
search: {{trials: 5, population_size: 3, n_neighbors: 3}}
phases: [{{method: ga, free: [neurons, bits]}}, {{method: ts, free: connections}}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="module")
def start() -> Callable[..., BaseProcess]:
    """Starts the command in a process that forks from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna_wnn.cli", "optuna_wnn.evaluators.reference"])

    def start(words: list[str], most_bytes: int = -1) -> BaseProcess:
        process = context.Process(target=_command, args=(words, os.getcwd(), most_bytes))
        process.start()
        return process

    return start


def _command(words: list[str], folder: str, most_bytes: int) -> None:
    os.chdir(folder)
    with (
        open("out.txt", "w", buffering=1) as out,
        open("err.txt", "w", buffering=1) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        code = main(words)
    sys.exit(code)


def ended(process: BaseProcess, seconds: float = 200) -> tuple[int | None, list[str]]:
    """Wait for a command, and return its exit code and what it wrote to standard error."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(Path("out.txt").read_text() + Path("err.txt").read_text())
    return process.exitcode, Path("err.txt").read_text().splitlines()


def came_to(url: str, name: str) -> Outcome:
    """Return what a run came to, without the name of the run."""
    storage = open_storage(url)
    found = outcome(storage, name)
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        storage._backend.scoped_session.remove()  # type: ignore[attr-defined]
        engine.dispose()
    return {study.partition("/")[2]: trials for study, trials in found.items()}


@pytest.fixture(scope="module")
def undisturbed(
    start: Callable[..., BaseProcess], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """What the command's run comes to if nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT)
        Path("run.yaml").write_text(CONFIG.format(name="whole", storage="sqlite:///runs.db"))
        assert ended(start(["run", "run.yaml"])) == (0, [])
        return came_to("sqlite:///runs.db", "whole")


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "journal:///runs.journal"])
def test_a_full_disk_stops_the_command_with_one_line_and_it_goes_on_later(
    url: str, here: Path, start: Callable[..., BaseProcess], undisturbed: Outcome
) -> None:
    Path("run.yaml").write_text(CONFIG.format(name="full", storage=url))
    code, lines = ended(start(["run", "run.yaml"], 50_000 if "journal" in url else 250_000))
    assert code == 2
    (line,) = lines
    assert line.startswith("optuna-wnn: storage: ")
    assert "run the same command again: nothing is lost" in line
    assert ended(start(["run", "run.yaml"])) == (0, [])
    assert came_to(url, "full") == undisturbed


# -- networks and servers ------------------------------------------------------------------------


class Wire:
    """A TCP proxy that can be cut: what is connected is hung up on, and nobody comes through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: list[socket.socket] = []
        self._is_cut = False
        self._is_stalled = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._is_stalled.is_set():
                    time.sleep(0.01)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self, seconds: float) -> None:
        """Hang up, and let nobody through for some time."""
        self._is_cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self._is_cut = False

    def stall(self, seconds: float) -> None:
        """Keep connections, but forward nothing for some time."""
        self._is_stalled.set()
        time.sleep(seconds)
        self._is_stalled.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut(0)


@pytest.fixture
def wired(request: pytest.FixtureRequest) -> Iterator[tuple[Wire, str]]:
    """A wire to a fresh storage of some service, and the URL that leads through it."""
    kind = request.param
    if kind == "redis":
        redis = pytest.importorskip("redis")
        address = os.environ.get(*URLS["redis"]).rpartition("/")[0] + "/14"
        client = redis.Redis.from_url(address)
        try:
            client.flushdb()
        except redis.exceptions.ConnectionError:
            pytest.skip("no Redis")
        fresh: Iterator[str] = iter([address])
    else:
        fresh = with_database(kind)
    for address in fresh:
        url = sqlalchemy.engine.make_url(address)
        assert url.port is not None
        wire = Wire(url.port)
        yield wire, url.set(port=wire.port).render_as_string(hide_password=False)
        wire.close()
    if kind == "redis":
        client.flushdb()
        client.close()


SECONDS = float(os.environ.get("TEST_CUT_SECONDS", "1"))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("wired", "fault"),
    [("postgres", "cut"), ("postgres", "stall"), ("mysql", "cut"), ("redis", "cut")],
    indirect=["wired"],
)
def test_a_run_survives_a_network_that_is_away(
    wired: tuple[Wire, str],
    fault: str,
    here: Path,
    start: Callable[..., BaseProcess],
    undisturbed: Outcome,
) -> None:
    wire, url = wired
    Path("run.yaml").write_text(CONFIG.format(name="cut", storage=url))
    process = start(["run", "run.yaml"])
    while "generation" not in out() and process.is_alive():
        time.sleep(0.05)
    getattr(wire, fault)(SECONDS)
    code, lines = ended(process)
    assert code == 0, lines
    if fault == "cut":
        # The pool of connections may say that it lost one, too.
        assert any(line.startswith("The storage does not answer (") for line in lines)
    else:
        assert lines == []
    assert came_to(url, "cut") == undisturbed


def out() -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path("out.txt").read_text()
    return ""


class PostgreSQL:
    """A server of one's own, on a folder of one's own."""

    def __init__(self, folder: Path) -> None:
        self._binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
        if self._binaries is None or not (self._binaries / "initdb").exists():
            pytest.skip("PostgreSQL's server is not installed")
        pytest.importorskip("psycopg")
        self._user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
        self._folder = folder / "server"
        self._folder.mkdir()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._do("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def _do(self, program: str, *words: str) -> None:
        assert self._binaries is not None
        subprocess.run(
            [self._binaries / program, f"--pgdata={self._folder}/data", *words],
            check=True,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self._do("pg_ctl", "start", "-w", "-o", options, f"--log={self._folder}/log")

    def stop(self) -> None:
        self._do("pg_ctl", "stop", "-m", "immediate")


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    # Not in pytest's own folder, which only this user may enter.
    folder = Path("/tmp") / f"wnn-postgres-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        server = PostgreSQL(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def test_a_run_survives_a_database_that_crashes_and_comes_back(
    server: PostgreSQL, here: Path, start: Callable[..., BaseProcess], undisturbed: Outcome
) -> None:
    Path("run.yaml").write_text(CONFIG.format(name="crash", storage=server.url))
    process = start(["run", "run.yaml"])
    while "generation" not in out() and process.is_alive():
        time.sleep(0.05)
    server.stop()
    time.sleep(0.5)
    server.start()
    code, lines = ended(process)
    assert code == 0, lines
    assert all(line.startswith("The storage does not answer (") for line in lines)
    assert came_to(server.url, "crash") == undisturbed


# -- evaluators and memory -----------------------------------------------------------------------


class Odd(DigestEvaluator):
    """Returns no number for some genomes."""

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        found = super().evaluate(genome, part)
        if genome.handle % 5 or part != "fitness":
            return found
        return Evaluation(
            cross_entropy=float("nan"),
            accuracy=found.accuracy,
            neuron_order=found.neuron_order,
            cluster_losses=found.cluster_losses,
            n_examples=found.n_examples,
        )


def test_a_loss_that_is_no_number_fails_its_trial_alone() -> None:
    storage = InMemoryStorage()
    small_search(storage, Odd()).run()
    outcome(storage)  # no place was taken twice
    trials = [t for study in studies(storage) for t in study.trials]
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert len(failed) > 3
    for study in studies(storage):
        own = [t for t in study.trials if t.state == TrialState.COMPLETE]
        assert all(np.isfinite(t.values).all() for t in own)


class Heavy(DigestEvaluator):
    """Needs more memory than there is for the evaluation number ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__(small_task())
        self.at = at

    def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
        if len(self.seen) == self.at:
            np.ones(1 << 50)
        return super().evaluate(genome, part)


@pytest.mark.parametrize("at", [0, 7, 20])
def test_a_run_whose_memory_ran_out_says_so_in_one_line_and_goes_on(
    expected: Outcome, at: int
) -> None:
    storage = InMemoryStorage()
    with pytest.raises(InputError, match=r"run small: memory ran out .*nothing is lost"):
        small_search(storage, Heavy(at), **SHORT).run()
    small_search(storage, **SHORT).run()
    assert outcome(storage) == expected


# -- others --------------------------------------------------------------------------------------


def test_a_run_of_the_same_name_that_begins_at_the_same_moment_is_refused() -> None:
    storage = InMemoryStorage()
    late = small_search(storage, seed=2)
    checked = late._chain.check_same

    def check_and_be_overtaken() -> None:
        checked()
        if not optuna.get_all_study_names(storage=storage):
            small_search(storage, seed=1).run()

    late._chain.check_same = check_and_be_overtaken  # type: ignore[method-assign]
    with pytest.raises(InputError, match="seed was 1, is 2"):
        late.run()


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_jumps_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, expected: Outcome, jump: float
) -> None:
    storage = InMemoryStorage()
    true_time, calls = time.time, [0]

    class Jumping(DigestEvaluator):
        def evaluate(self, genome: Genome, part: EvaluationPart = "fitness") -> Evaluation:
            calls[0] += 1
            shift = jump * (calls[0] % 2)
            monkeypatch.setattr(time, "time", lambda: true_time() + shift)
            monkeypatch.setattr("psutil.boot_time", lambda: true_time() - 1e5 + shift)
            return super().evaluate(genome, part)

    small_search(storage, Jumping(), **SHORT).run()
    assert outcome(storage) == expected


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_worker_keeps_its_name_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    me = workers.this_worker()
    workers._named.cache_clear()
    monkeypatch.setattr("psutil.Process.create_time", lambda _: 12345.0)
    assert workers.this_worker() == me
    assert not workers.is_gone(me)
