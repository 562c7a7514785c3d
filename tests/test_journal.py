"""A journal file outlives processes that are killed while they write."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from services import with_redis

from optuna_wnn.errors import StorageError
from optuna_wnn.storages import open_storage


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it needs flock")


def test_half_a_line_of_a_killed_writer_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    url = f"journal:///{path}"
    optuna.create_study(study_name="a", storage=open_storage(url))
    whole = path.read_bytes()
    for torn in (b'{"op_code":0,"worker', b"x" * 10_000):
        path.write_bytes(whole + torn)
        storage = open_storage(url)
        assert optuna.get_all_study_names(storage=storage) == ["a"]
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "b")
        assert optuna.get_all_study_names(storage=open_storage(url)) == ["a", "b"]


def test_a_journal_of_half_a_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(b'{"op_code"')
    optuna.create_study(study_name="a", storage=open_storage(f"journal:///{path}"))
    assert optuna.get_all_study_names(storage=open_storage(f"journal:///{path}")) == ["a"]


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    program = f"""
import os, signal
from optuna_wnn.journal import _ProcessLock
open({str(path)!r}, "ab").close()
_ProcessLock({str(path)!r}).acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program])
    started = time.monotonic()
    optuna.create_study(study_name="a", storage=open_storage(f"journal:///{path}"))
    assert time.monotonic() - started < 10  # Optuna's own lock waits for 30 s
    assert [p.name for p in tmp_path.iterdir()] == ["a.journal"]


def test_two_processes_write_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    program = f"""
import optuna
from optuna_wnn.storages import open_storage
study = optuna.create_study(
    study_name="a", storage=open_storage("journal:///{path}"), load_if_exists=True
)
for _ in range(40):
    study.tell(study.ask(), 0.0)
"""
    writers = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", program]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    study = optuna.load_study(study_name="a", storage=open_storage(f"journal:///{path}"))
    assert [t.number for t in study.trials] == list(range(80))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_an_entry_that_redis_has_lost_is_told_and_not_waited_for() -> None:
    redis = pytest.importorskip("redis")
    for url in with_redis():
        storage = open_storage(url)
        study = optuna.create_study(study_name="a", storage=storage)
        study.tell(study.ask(), 0.0)
        with redis.Redis.from_url(url) as client:
            client.delete(":log:2")
            with pytest.raises(StorageError, match="lost entry 2 of its journal"):
                open_storage(url)
            client.delete(":log_number")
        with pytest.raises(StorageError, match=r"lost entry .* of its journal"):
            study.ask()
