"""What fails around a run: storages, disks, evaluators, memory, the clock."""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from commands import CONFIG
from commands import came_to
from commands import ended
from commands import start
from commands import written
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

from optuna_wnn import chain
from optuna_wnn import outages
from optuna_wnn import workers
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


def test_a_connection_that_is_lost_when_its_work_is_done_is_nothing_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/runs.db")
    engine = storage._backend.engine  # type: ignore[attr-defined]

    def fail(_: object) -> None:
        raise lost_connection()

    with caplog.at_level("INFO"):
        connection = engine.connect()
        monkeypatch.setattr(engine.dialect, "do_rollback", fail)
        connection.close()
    monkeypatch.undo()
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "reset" in record.message
    optuna.create_study(study_name="a", storage=storage)
    assert optuna.get_all_study_names(storage) == ["a"]


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_connections_end_with_their_storage(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/runs.db")
    pool = storage._backend.engine.pool  # type: ignore[attr-defined]
    optuna.create_study(study_name="a", storage=storage)
    assert pool.checkedin() + pool.checkedout() > 0
    del storage
    gc.collect()
    assert pool.checkedin() + pool.checkedout() == 0


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


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "journal:///runs.journal"])
def test_a_full_disk_stops_the_command_with_one_line_and_it_goes_on_later(
    url: str, here: Path, undisturbed: Outcome
) -> None:
    Path("run.yaml").write_text(CONFIG.format(name="full", storage=url))
    most_bytes = 50_000 if "journal" in url else 250_000
    limited = start(["run", "run.yaml"], limits={resource.RLIMIT_FSIZE: most_bytes})
    code, lines = ended(limited)
    assert code == 2
    (line,) = lines
    assert line.startswith("optuna-wnn: storage: ")
    assert "run the same command again: nothing is lost" in line
    assert ended(start(["run", "run.yaml"])) == (0, [])
    assert came_to(url, "full") == undisturbed


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


def test_a_thread_that_finds_no_memory_is_memory_that_ran_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = InMemoryStorage()
    search = small_search(storage, seed=1)

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(search.evaluator, "evaluate", fail)
        with pytest.raises(InputError, match=r"memory ran out \(can't start new thread\)"):
            search.run()
    whole = InMemoryStorage()
    small_search(whole, seed=1).run()
    small_search(storage, seed=1).run()
    assert outcome(storage) == outcome(whole)


def test_a_process_that_gets_no_more_memory_says_so_and_its_run_goes_on(here: Path) -> None:
    wide = CONFIG.replace("context: 1", "context: 3").replace("bits: [2, 4]", "bits: [20, 21]")
    Path("run.yaml").write_text(wide.format(name="tight", storage="sqlite:///runs.db"))
    code, lines = ended(start(["run", "run.yaml"], limits={resource.RLIMIT_AS: 16 << 20}))
    assert code == 2
    (line,) = lines
    assert "memory ran out" in line
    assert ended(start(["run", "run.yaml"])) == (0, [])
    assert ended(start(["run", "run.yaml", "--name", "whole"])) == (0, [])
    assert came_to("sqlite:///runs.db", "tight") == came_to("sqlite:///runs.db", "whole")


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


def test_of_two_runs_of_one_name_that_start_together_one_is_refused(here: Path) -> None:
    url = "sqlite:///runs.db"
    Path("run.yaml").write_text(CONFIG.format(name="both", storage=url))
    together = [
        start(["run", "run.yaml", "--set", f"seed={seed}"], f"{seed}.out", f"{seed}.err")
        for seed in (1, 2)
    ]
    codes = [ended(process, f"{seed}.err")[0] for seed, process in enumerate(together, 1)]
    assert sorted(map(str, codes)) == ["0", "2"]
    first = codes.index(0) + 1
    (line,) = written(f"{3 - first}.err").splitlines()
    assert f"seed was {first}, is {3 - first}" in line
    assert ended(start(["run", "run.yaml", "--name", "alone", "--set", f"seed={first}"])) == (
        0,
        [],
    )
    assert came_to(url, "both") == came_to(url, "alone")


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
