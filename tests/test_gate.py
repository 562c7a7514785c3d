"""The gate that workers pass one at a time, where a storage has no lock of its own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from optuna_wnn.storages import open_storage
from optuna_wnn.store import gate
from optuna_wnn.store.gate import Gate


def the_trial(storage: BaseStorage) -> int:
    """Return the trial that the gate is."""
    (study,) = storage.get_all_studies()
    return storage.get_trial_id_from_study_id_trial_number(study._study_id, 0)


@pytest.mark.parametrize("kind", ["memory:", "journal:///{}/runs.journal"])
def test_of_many_who_come_at_once_one_is_inside(kind: str, tmp_path: Path) -> None:
    url = kind.format(tmp_path)
    memory = open_storage(url)
    study = memory.create_new_study([StudyDirection.MINIMIZE], "run")
    inside, most, passed = [], [], []

    def worker(number: int) -> None:
        storage = memory if kind == "memory:" else open_storage(url)
        own = Gate(storage, "run/gate")
        for _ in range(3):
            with own.passed():
                inside.append(number)
                storage.create_new_trial(study)
                time.sleep(0.005)
                most.append(len(inside))
                inside.remove(number)
            passed.append(number)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert sorted(passed) == [number for number in range(4) for _ in range(3)]


def test_who_died_inside_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_PATIENCE", 0.2)
    storage = InMemoryStorage()
    with Gate(storage, "run/gate").passed():
        pass
    storage.set_trial_state_values(the_trial(storage), TrialState.RUNNING)
    started = time.monotonic()
    with Gate(storage, "run/gate").passed():
        assert time.monotonic() - started >= 0.2
    assert storage.get_trial(the_trial(storage)).state == TrialState.WAITING


def test_it_is_left_open_by_an_error_inside() -> None:
    storage = InMemoryStorage()
    with pytest.raises(ZeroDivisionError), Gate(storage, "run/gate").passed():
        _ = 1 // 0
    assert storage.get_trial(the_trial(storage)).state == TrialState.WAITING


def test_a_gate_that_somebody_closed_or_deleted_stands_open() -> None:
    storage = InMemoryStorage()
    mine = Gate(storage, "run/gate")
    with mine.passed():
        storage.set_trial_state_values(the_trial(storage), TrialState.FAIL)
    with mine.passed():
        storage.delete_study(storage.get_all_studies()[0]._study_id)
    with mine.passed():
        pass


def test_a_database_needs_none(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/runs.db")
    with Gate(storage, "run/gate").passed():
        assert storage.get_all_studies() == []
