"""A run that is killed anywhere and resumed ends with the same trials as one that was not."""

from __future__ import annotations

import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from commands import came_to
from commands import ended
from commands import start
from commands import wait_for
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from runs import DigestEvaluator
from runs import outcome
from runs import place
from runs import small_search
from runs import studies

from optuna_wnn.cli import main
from optuna_wnn.storages import open_storage
from optuna_wnn.store.places import read_child
from optuna_wnn.store.trials import all_trials
from optuna_wnn.store.trials import is_stale


WRITES = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
STORAGES = ("sqlite:///runs.db", "journal:///runs.journal")


class Killed(BaseException):
    """What ends a run in this process as a kill would: nothing is tidied up."""


# -- every point of a run, in this process -------------------------------------------------------


class Recorder(InMemoryStorage):
    """Keeps a copy of itself as it was before some of the writes."""

    def __init__(self, wanted: Callable[[int], bool]) -> None:
        super().__init__()
        self.wanted, self.n_writes = wanted, 0
        self.copies: list[bytes] = []

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in ("copies", "wanted")}


def _recorded(name: str) -> Callable[..., Any]:
    write = getattr(InMemoryStorage, name)

    @functools.wraps(write)
    def wrapped(self: Recorder, *args: Any, **options: Any) -> Any:
        if self.wanted(self.n_writes):
            self.copies.append(pickle.dumps(self))
        self.n_writes += 1
        return write(self, *args, **options)

    return wrapped


for _name in WRITES:
    setattr(Recorder, _name, _recorded(_name))


def resumed(copy: bytes) -> InMemoryStorage:
    storage: Recorder = pickle.loads(copy)
    storage.wanted = lambda n: False
    return storage


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stops early": {
        "search": {
            "trials": 40,
            "patience": 1,
            "min_generations": 1,
            "population_size": 3,
            "n_neighbors": 3,
        },
    },
    "several sources": {"search": {"trials": 7, "population_size": 3, "n_sources": 2}},
    "threshold and scaling": {
        "search": {
            "trials": 10,
            "population_size": 3,
            "n_neighbors": 3,
            "improvement": "first",
            "crossover": "informed",
        },
        "threshold": {"start": 0.1, "end": 0.6},
        "scaling": {"check_interval": 1},
    },
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_run_that_died_before_any_write_ends_as_if_it_had_not(changes: dict[str, Any]) -> None:
    step = 13 if changes else 7
    whole = Recorder(lambda n: n % step == 0)
    small_search(whole, **changes).run()
    expected = outcome(whole)
    assert whole.n_writes > 200
    for copy in whole.copies:
        storage = resumed(copy)
        small_search(storage, **changes).run()
        assert outcome(storage) == expected


def test_what_was_done_when_a_run_died_is_not_done_again() -> None:
    whole = Recorder(lambda n: n % 29 == 0)
    first = DigestEvaluator()
    small_search(whole, first).run()
    for copy in whole.copies:
        storage = resumed(copy)
        done = sum(
            t.state == TrialState.COMPLETE and not _is_seed(t)
            for study in studies(storage)
            for t in all_trials(study)
        )
        second = DigestEvaluator()
        small_search(storage, second).run()
        assert second.seen == first.seen[done:]


def _is_seed(trial: optuna.trial.FrozenTrial) -> bool:
    child = read_child(trial.system_attrs)
    return child is not None and child.is_seed


def test_the_place_of_a_lost_trial_is_given_out_once_more() -> None:
    whole = Recorder(lambda n: n % 9 == 5)
    small_search(whole).run()
    n_lost = 0
    for copy in whole.copies:
        storage = resumed(copy)
        small_search(storage).run()
        for study in studies(storage):
            trials = all_trials(study)
            lost = [t for t in trials if is_stale(t.system_attrs)]
            n_lost += len(lost)
            for trial in lost:
                assert trial.state == TrialState.FAIL
                if read_child(trial.system_attrs) is not None:
                    (again,) = [t for t in trials[trial.number + 1 :] if place(t) == place(trial)]
                    assert again.state == TrialState.COMPLETE
    assert n_lost > 10


@pytest.mark.parametrize("url", STORAGES)
def test_a_run_may_die_again_and_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {"search": {"trials": 5, "population_size": 3, "n_neighbors": 3}}
    whole = InMemoryStorage()
    small_search(whole, **changes).run()
    rng = random.Random(1)
    n_deaths = 0
    while True:
        storage = mortal(open_storage(url), rng.randrange(20, 40))
        try:
            small_search(storage, **changes).run()
        except Killed:
            n_deaths += 1
            backend = getattr(storage, "_backend", None)
            if isinstance(backend, RDBStorage):
                backend.remove_session()  # the lock of a dead process goes with it
        else:
            break
    assert n_deaths > 5
    assert outcome(open_storage(url)) == outcome(whole)


def mortal(storage: BaseStorage, n_writes: int) -> BaseStorage:
    """Have a storage raise :class:`Killed` after some writes: statements, where it is SQL."""
    left = n_writes
    engine = getattr(getattr(storage, "_backend", None), "engine", None)
    if engine is not None:
        left *= 3  # a write of Optuna's is a few statements

        def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            nonlocal left
            left -= not statement.startswith("SELECT")
            if left < 0:
                raise Killed

        sqlalchemy.event.listen(engine, "before_cursor_execute", count)
        return storage

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return write(*args, **options)

        return wrapped

    for name in WRITES:
        setattr(storage, name, counted(getattr(storage, name)))
    return storage


# -- real processes, killed by the system --------------------------------------------------------

N_KILLS = int(os.environ.get("TEST_KILLS", "16"))  # of each kind of storage
CONFIG = """
name: killed
storage: {storage}
backend: reference
task: {{kind: text, path: text.txt, context: 1}}
space: {{neurons: [2, 3], bits: [2, 4]}}
search: {{trials: 5, population_size: 3, n_neighbors: 3}}
"""


def configuration(storage: str) -> str:
    Path("run.yaml").write_text(CONFIG.format(storage=storage))
    return "run.yaml"


@pytest.mark.skipif(sys.platform == "win32", reason="it needs SIGKILL")
@pytest.mark.parametrize("url", STORAGES)
def test_a_process_may_be_killed_at_any_moment(url: str, here: Path) -> None:
    config = configuration(url)
    assert ended(start(["run", config, "--name", "whole"])) == (0, [])
    expected = came_to(url, "whole")
    rng = random.Random(7)
    n_kills = n_chains = 0
    while n_kills < N_KILLS:
        n_chains += 1
        name = f"chain{n_chains}"
        while True:
            process = start(["run", config, "--name", name])
            if n_kills == N_KILLS:
                break
            wait_for(process, "\n", rng.randrange(5))  # lines, of some twenty of a whole run
            process.join(rng.random() / 5)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            n_kills += 1
        assert ended(process) == (0, [])
        assert came_to(url, name) == expected


def listen_to_ctrl_c() -> None:
    """Undo what a shell does to background jobs: it has them, and their children, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="it needs process groups")
@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")],
)
def test_ctrl_c_and_sigterm_say_how_to_resume_and_the_real_command_does(
    here: Path, sent: signal.Signals, code: int, word: str
) -> None:
    url = "sqlite:///runs.db"
    command = [sys.executable, "-m", "optuna_wnn.cli", "run", configuration(url)]
    for _ in range(2):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)  # into the trials
        os.killpg(process.pid, sent)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, out + err
        lines = err.strip().splitlines()
        assert lines == [f"{word}; nothing is lost. To resume: optuna-wnn run run.yaml"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert main(["run", "run.yaml", "--name", "whole"]) == 0
    assert came_to(url, "killed") == came_to(url, "whole")
