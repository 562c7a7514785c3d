"""A gate that one worker passes at a time, where a storage has no lock of its own."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Final

from optuna.exceptions import DuplicatedStudyError
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_wnn.store.tables import tables_of


_PATIENCE: Final = 10.0  # seconds after which whoever is inside is taken for dead
_POLL: Final = 0.03  # seconds between two attempts, about


class Gate:
    """Lets one worker of a run begin a trial at a time.

    Of several workers that would begin one enqueued trial, Optuna has one succeed, on every
    storage. The gate is such a trial, the only one of a study of its own: it runs while a worker
    is inside, and waits for the next one otherwise. Relational databases have locks and need none.

    It saves trials that would be given up, no more: that no two workers keep a place is seen to
    after they began. So who waits for long passes, a gate that is damaged stands open, and a
    journal may let two in where one of them left without beginning a trial (Optuna takes who ran
    a trial last for its owner).

    Args:
        storage: The storage of the run.
        name: The name of the gate's study.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._trial: int | None = None

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Be inside, alone, as long as the block lasts."""
        if tables_of(self._storage) is not None:
            yield
            return
        until = time.monotonic() + _PATIENCE
        while not self._set(TrialState.RUNNING) and time.monotonic() < until:
            time.sleep(_POLL * random.uniform(0.5, 1.5))
        try:
            yield
        finally:
            self._set(TrialState.WAITING)

    def _set(self, state: TrialState) -> bool:
        """Change the state of the gate; return whether no other worker was faster."""
        if self._trial is None:
            self._trial = self._found()
        try:
            return self._storage.set_trial_state_values(self._trial, state)
        except (KeyError, UpdateFinishedTrialError):  # a user deleted or closed it
            return True

    def _found(self) -> int:
        """Return the gate's trial, made if it was not yet."""
        storage = self._storage
        try:
            study = storage.create_new_study([StudyDirection.MINIMIZE], self._name)
        except DuplicatedStudyError:
            study = storage.get_study_id_from_name(self._name)
        with contextlib.suppress(KeyError):
            return storage.get_trial_id_from_study_id_trial_number(study, 0)
        storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
        # Another worker may have been faster: the first one is the gate.
        return storage.get_trial_id_from_study_id_trial_number(study, 0)
