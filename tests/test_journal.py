"""A journal file outlives processes that are killed while they write."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

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
